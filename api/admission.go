package api

import (
	"cmp"
	"fmt"
	"math"
	"net/http"
	"strings"
	"time"

	"github.com/gin-gonic/gin"

	"github.com/batchd/batchd/api/auth"
	"github.com/batchd/batchd/internal/batch"
	"github.com/batchd/batchd/internal/setting"
)

// WhenExceeded selects what happens to a submission that exceeds its owner's limit.
type WhenExceeded string

// The choices for such a submission.
const (
	// Reject refuses the whole submission with 429.
	Reject WhenExceeded = "reject"
	// PerItem accepts the submission, and ends each action beyond the limit as refused.
	// It is for dialects: their whole request is known before the server stores
	// anything.
	PerItem WhenExceeded = "per_item"
	// Queue accepts the submission, and runs its actions as the limit allows.
	Queue WhenExceeded = "queue"
)

// Choices implements [setting.Choice].
func (WhenExceeded) Choices() []string {
	return []string{string(Reject), string(PerItem), string(Queue)}
}

// Admission bounds what one owner may submit. The zero value admits everything.
type Admission struct {
	// Rate is the most actions that are admitted in any window, such as 1500/min.
	// Defaults to no bound.
	Rate batch.Rate `yaml:"rate"`
	// Concurrent is the most actions that are admitted and have not ended. 0, the
	// default, is no bound.
	Concurrent int `yaml:"concurrent"`
	// WhenExceeded selects what happens to a submission beyond Rate or Concurrent:
	// reject, per_item or queue. Defaults to reject.
	WhenExceeded WhenExceeded `yaml:"when_exceeded"`
}

// WithDefaults returns the settings with zero values replaced.
func (a Admission) WithDefaults() Admission {
	a.WhenExceeded = cmp.Or(a.WhenExceeded, Reject)
	return a
}

// Check reports the faults of the settings.
func (a Admission) Check(c *setting.Checker) {
	c.Int("concurrent", a.Concurrent, 0, 1_000_000)
	c.Choice("when_exceeded", string(a.WhenExceeded), a.WhenExceeded.Choices())
}

func (a Admission) bounded() bool { return a.Rate.N > 0 || a.Concurrent > 0 }

// admissionOf returns the limit for a submission, and its scope: the endpoint's own
// limit, or the server's.
// The limits of a principal replace the numbers of either.
func (s *Server) admissionOf(p *auth.Principal, ep *Endpoint) (Admission, batch.Limit) {
	a, scope := s.cfg.Limits.Admission, ""
	if ep != nil && ep.Admission.bounded() {
		a, scope = ep.Admission, ep.Path
	}
	if p.Limits != nil {
		if p.Limits.Rate.N > 0 {
			a.Rate = p.Limits.Rate
		}
		a.Concurrent = cmp.Or(p.Limits.Concurrent, a.Concurrent)
	}
	return a, batch.Limit{Scope: scope, Rate: a.Rate, Concurrent: a.Concurrent}
}

// retryAdmission returns the limit for a retry of a batch: the limit of the endpoint that
// accepted the batch under a limit of its own, or the server's. If that limit refuses item
// by item, it refuses the retry as a whole, because the caller of a retry knows no items.
// The limits of an admin's own credential do not count for a batch of another owner: the configured ones do.
func (s *Server) retryAdmission(c *gin.Context, b *batch.Batch) (limit, throttle *batch.Limit, err error) {
	var ep *Endpoint
	for i := range s.cfg.Endpoints {
		if b.Scope != "" && s.cfg.Endpoints[i].Path == b.Scope {
			ep = &s.cfg.Endpoints[i]
		}
	}
	p := principal(c)
	if isForeign(c) {
		p = &auth.Principal{}
	}
	a, of := s.admissionOf(p, ep)
	if !a.bounded() {
		return nil, nil, nil
	}
	if of.Address, err = s.addressLimit(c, of); err != nil {
		return nil, nil, err
	}
	if a.WhenExceeded == Queue {
		return nil, &of, nil
	}
	return &of, nil, nil
}

// addressLimit returns the limit for the client's address that belongs to one of an owner. Only in the mode
// passthrough a client can invent credentials, and so owners.
func (s *Server) addressLimit(c *gin.Context, of batch.Limit) (*batch.AddressLimit, error) {
	times := s.cfg.Limits.PerAddress
	if principal(c).Mode != auth.ModePassthrough || times == 0 {
		return nil, nil //nolint:nilnil // there is no limit
	}
	name, err := s.addressName(c)
	if err != nil {
		return nil, err
	}
	rate := batch.Rate{N: multiply(of.Rate.N, times), Per: of.Rate.Per}
	return &batch.AddressLimit{Name: name, Rate: rate, Concurrent: multiply(of.Concurrent, times)}, nil
}

// multiply returns n times the given number, but no more than Lua can count.
func multiply(n, times int) int {
	const most = 1 << 53
	if n > most/times {
		return most
	}
	return n * times
}

// admit asks the owner's limit for n actions. It returns how many of them are admitted,
// counted from the first: all of them, unless the limit refuses item by item. If the
// limit queues, admit marks the batch as throttled instead.
func (s *Server) admit(c *gin.Context, up batch.Upload, ep *Endpoint, n int, spec *batch.Spec) (int, error) {
	a, limit := s.admissionOf(principal(c), ep)
	if !a.bounded() {
		return n, nil
	}
	spec.Scope = limit.Scope
	var err error
	if limit.Address, err = s.addressLimit(c, limit); err != nil {
		return 0, err
	}
	if a.WhenExceeded == Queue {
		spec.Throttle = &limit
		return n, nil
	}
	admitted, state, err := up.Admit(c.Request.Context(), n, limit, a.WhenExceeded == PerItem)
	if err != nil {
		return 0, fmt.Errorf("admit: %w", err)
	}
	setRateLimit(c.Writer.Header(), &state)
	return admitted, nil
}

// setRateLimit describes a limit in the headers of draft-ietf-httpapi-ratelimit-headers: its rate as
// "actions", and what may be in flight as "concurrent", which has no window.
func setRateLimit(header http.Header, state *batch.LimitState) {
	var policy, now []string
	if rate := state.Limit.Rate; rate.N > 0 {
		policy = append(policy, fmt.Sprintf(`"actions";q=%d;w=%d`, rate.N, wholeSeconds(rate.Per)))
		now = append(now, fmt.Sprintf(`"actions";r=%d;t=%d`, state.Remaining, wholeSeconds(state.Reset)))
	}
	if most := state.Limit.Concurrent; most > 0 {
		policy = append(policy, fmt.Sprintf(`"concurrent";q=%d`, most))
		now = append(now, fmt.Sprintf(`"concurrent";r=%d`, state.Free))
	}
	if policy == nil {
		return
	}
	header.Set("Ratelimit-Policy", strings.Join(policy, ", "))
	header.Set("Ratelimit", strings.Join(now, ", "))
}

func wholeSeconds(d time.Duration) int { return int(math.Ceil(d.Seconds())) }
