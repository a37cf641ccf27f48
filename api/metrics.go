package api

import (
	"errors"
	"net/http"
	"slices"
	"strconv"
	"time"

	"github.com/gin-gonic/gin"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"github.com/batchd/batchd/internal/batch"
)

// metrics are the API's own metrics. Labels are bounded: routes are templates, and
// methods are those of the API.
type metrics struct {
	registry *prometheus.Registry
	requests *prometheus.CounterVec
	duration *prometheus.HistogramVec
	batches  *prometheus.CounterVec
	actions  *prometheus.CounterVec
	// handshakes counts the TLS handshakes that failed.
	handshakes prometheus.Counter
	quotas     *prometheus.CounterVec
	checks     *prometheus.CounterVec
}

func newMetrics(registry *prometheus.Registry) (*metrics, error) {
	m := &metrics{
		registry: registry,
		requests: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "batchd_http_requests_total", Help: "Requests answered, by route, method and class of status.",
		}, []string{"route", "method", "class"}),
		duration: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name: "batchd_http_request_duration_seconds", Help: "Time from a request's header to the end of its answer, waits and streams included.",
			Buckets: []float64{.001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10, 30, 60},
		}, []string{"route", "method"}),
		batches: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "batchd_batches_accepted_total", Help: "Batches accepted, by target. Replayed submissions are not counted.",
		}, []string{"target"}),
		actions: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "batchd_actions_accepted_total", Help: "Actions accepted, by target. Replayed submissions are not counted.",
		}, []string{"target"}),
		handshakes: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "batchd_tls_handshake_errors_total", Help: "TLS handshakes that failed: clients without a valid certificate, and those that do not speak TLS.",
		}),
		quotas: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "batchd_quota_refusals_total", Help: "Requests refused by a quota, by the quota and by whose it is: an owner's or an address's.",
		}, []string{"quota", "of"}),
		checks: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "batchd_credential_checks_total", Help: "Requests to targets about credentials, by target and by what the answer says about the credential: good, bad or unknown.",
		}, []string{"target", "result"}),
	}
	for _, quota := range []string{batch.QuotaOpenBatches, batch.QuotaStoredBytes, batch.QuotaUploadRate} {
		for _, of := range []batch.AccountKind{batch.OwnerAccount, batch.AddressAccount} {
			m.quotas.WithLabelValues(quota, string(of))
		}
	}
	var errs []error
	for _, c := range []prometheus.Collector{m.requests, m.duration, m.batches, m.actions, m.handshakes, m.quotas, m.checks} {
		errs = append(errs, registry.Register(c))
	}
	return m, errors.Join(errs...)
}

// showCertificate adds when the certificate expires.
func (m *metrics) showCertificate(notAfter func() time.Time) error {
	return m.registry.Register(prometheus.NewGaugeFunc(prometheus.GaugeOpts{
		Name: "batchd_tls_certificate_expires_timestamp_seconds", Help: "When the certificate of the API expires.",
	}, func() float64 { return float64(notAfter().Unix()) }))
}

func (m *metrics) observe(method, route string, status int, took time.Duration) {
	if route == "" {
		route = "unmatched"
	}
	if !slices.Contains([]string{http.MethodGet, http.MethodHead, http.MethodPost, http.MethodDelete}, method) {
		method = "other"
	}
	m.requests.WithLabelValues(route, method, strconv.Itoa(status/100)+"xx").Inc()
	m.duration.WithLabelValues(route, method).Observe(took.Seconds())
}

func (m *metrics) accepted(target string, actions int) {
	m.batches.WithLabelValues(target).Inc()
	m.actions.WithLabelValues(target).Add(float64(actions))
}

// showMetrics answers with all metrics of the registry.
func (s *Server) showMetrics(c *gin.Context) error {
	promhttp.HandlerFor(s.metrics.registry, promhttp.HandlerOpts{ErrorHandling: promhttp.HTTPErrorOnError}).ServeHTTP(c.Writer, c.Request)
	return nil
}
