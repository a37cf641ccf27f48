package worker

import (
	"fmt"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/batchd/batchd/internal/batch"
)

// metrics are the worker's metrics. Labels are closed sets and target names.
type metrics struct {
	actions   *prometheus.CounterVec   // target, outcome
	truncated *prometheus.CounterVec   // target
	attempts  *prometheus.CounterVec   // target, result
	duration  *prometheus.HistogramVec // target
	inFlight  *prometheus.GaugeVec     // target
	webhooks  *prometheus.CounterVec   // state
	swept     *prometheus.CounterVec   // what
	open      prometheus.Gauge
	recovered prometheus.Counter
	tripped   prometheus.Gauge
}

func newMetrics() *metrics {
	return &metrics{
		actions: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "batchd_actions_total", Help: "Actions that ended, by target and outcome.",
		}, []string{"target", "outcome"}),
		truncated: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "batchd_results_over_quota_total", Help: "Results stored without the target's body, because a quota of stored bytes had no room, by target.",
		}, []string{"target"}),
		attempts: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "batchd_attempts_total", Help: "Attempts at sending an action, by target and status class or error code.",
		}, []string{"target", "result"}),
		duration: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name: "batchd_attempt_duration_seconds", Help: "Time from the start of an attempt to the end of its answer.",
			Buckets: prometheus.ExponentialBuckets(0.001, 2.5, 12),
		}, []string{"target"}),
		inFlight: prometheus.NewGaugeVec(prometheus.GaugeOpts{
			Name: "batchd_attempts_in_flight", Help: "Attempts that are being made.",
		}, []string{"target"}),
		webhooks: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "batchd_webhook_attempts_total", Help: "Attempts at delivering a webhook, by the state that followed.",
		}, []string{"state"}),
		swept: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "batchd_swept_total", Help: "Faults that the sweeper repaired, by kind.",
		}, []string{"what"}),
		open: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "batchd_open_batches", Help: "Batches that were not done when this worker last swept.",
		}),
		tripped: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "batchd_open_circuits", Help: "Targets that were paused when this worker last looked, because no connection to them could be made.",
		}),
		recovered: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "batchd_recovered_actions_total", Help: "Actions that were taken over from workers that died.",
		}),
	}
}

func (m *metrics) register(r prometheus.Registerer) error {
	for _, c := range []prometheus.Collector{m.actions, m.truncated, m.attempts, m.duration, m.inFlight, m.webhooks, m.swept, m.open, m.recovered, m.tripped} {
		if err := r.Register(c); err != nil {
			return fmt.Errorf("register a metric: %w", err)
		}
	}
	return nil
}

// ended counts an action that ended with a result, as the ledger stored it.
func (m *metrics) ended(target string, r *batch.Result) {
	m.actions.WithLabelValues(target, r.Outcome.String()).Inc()
	if r.TruncatedBy != "" {
		m.truncated.WithLabelValues(target).Inc()
	}
}

func (m *metrics) attempt(target string, resp *batch.Response) {
	result := "none"
	switch {
	case resp.Result.Error != nil:
		result = string(resp.Result.Error.Code)
	case resp.Result.Status >= 100:
		result = string("012345"[min(resp.Result.Status/100, 5)]) + "xx"
	}
	m.attempts.WithLabelValues(target, result).Inc()
	m.duration.WithLabelValues(target).Observe(resp.Result.Duration.Seconds())
}

func (m *metrics) sweep(s batch.Swept) {
	m.open.Set(float64(s.Open - s.Closed))
	m.swept.WithLabelValues("fan_out").Add(float64(s.Resumed))
	m.swept.WithLabelValues("lost").Add(float64(s.Lost))
	m.swept.WithLabelValues("expired").Add(float64(s.Expired))
	m.swept.WithLabelValues("webhook").Add(float64(s.Notified))
	m.swept.WithLabelValues("closed").Add(float64(s.Closed))
}
