package api

import (
	"context"
	"fmt"
	"math"
	"net/http"
	"sync"
	"time"

	"github.com/gin-gonic/gin"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/batchd/batchd/api/auth"
	"github.com/batchd/batchd/api/dialect"
	"github.com/batchd/batchd/internal/batch"
)

const (
	// goodFor and badFor are how long it counts that a target accepted or refused a credential.
	goodFor = time.Minute
	badFor  = 10 * time.Second
	// unknownFor is how long it counts that a target did not say, unless it asks for more time, up to unknownMost.
	unknownFor  = 2 * time.Second
	unknownMost = time.Minute
	// failedFor is how long a credential that the target did not accept counts for its address after the answer.
	// Otherwise a client could try as many credentials as the target can answer, from the address of batchd.
	failedFor = time.Second
	// knownMost is the most credentials of each kind, good ones and others, that are known.
	knownMost = 10_000
)

// What an answer says about a credential, for the metric.
const (
	resultGood    = "good"
	resultBad     = "bad"
	resultUnknown = "unknown"
)

// verifier asks targets whether credentials are good, before anything of a submission with them is stored. Submissions
// with one credential share a question and its answer.
type verifier struct {
	ask    func(ctx context.Context, r *batch.Request) *batch.Response
	calls  map[string]batch.Call // by target
	counts *prometheus.CounterVec
	// running are the questions, by target, and addresses those of the clients of an address.
	running, addresses *slots

	mu   sync.Mutex
	good verdicts
	// others were refused, could not be checked, or are being asked. They do not displace good ones, however many a
	// client invents.
	others verdicts
}

// verdicts are what is known of credentials, by the owner that a credential is at an entrance: a keyed hash.
type verdicts map[string]*verdict

// verdict is what the answer of a target says about a credential.
type verdict struct {
	done  chan struct{} // closed when the rest is set
	err   error         // nil for a good credential
	until time.Time     // until when it counts
}

func newVerifier(cfg *Config, counts *prometheus.CounterVec) *verifier {
	most := &cfg.Limits.Capacity
	v := &verifier{
		calls: make(map[string]batch.Call), counts: counts, good: make(verdicts), others: make(verdicts),
		running:   newSlots("checks of credentials", most.CredentialChecks, (most.CredentialChecks+1)/2),
		addresses: newSlots("checks of credentials", math.MaxInt, most.CredentialChecksPerAddress),
	}
	v.addresses.of = "address"
	if cfg.Verifier == nil || !cfg.Auth.Has(auth.ModePassthrough) {
		return v
	}
	v.ask = cfg.Verifier.Do
	for i := range cfg.Policies {
		if t := &cfg.Policies[i]; t.Verify != nil {
			v.calls[t.Name] = *t.Verify
			for _, result := range []string{resultGood, resultBad, resultUnknown} {
				counts.WithLabelValues(t.Name, result)
			}
		}
	}
	return v
}

// verify returns an error unless the credentials of a submission are good. It asks the target about them if the target
// has a setting for that. Only in the mode passthrough batchd has not checked who is calling. The owner of the request
// is that of the credentials.
func (s *Server) verify(c *gin.Context, target string, credentials dialect.Credentials) error {
	call, asked := s.verifier.calls[target]
	if !asked || principal(c).Mode != auth.ModePassthrough {
		return nil
	}
	action, err := credentials.Action(call)
	if err != nil {
		return err
	}
	r := &batch.Request{Target: target, Owner: owner(c), Action: action, Call: true}
	return s.verifier.check(c.Request.Context(), r, network(c.Request).String())
}

// check returns an error unless the target accepts the credential of the request, now or a short time ago.
func (v *verifier) check(ctx context.Context, r *batch.Request, address string) error {
	d, err := v.verdict(ctx, r, address)
	if err != nil {
		return err
	}
	select {
	case <-d.done:
		return d.err
	case <-ctx.Done():
		return fmt.Errorf("check the credential: %w", ctx.Err())
	}
}

// verdict returns the verdict about the credential of a request, which may still be awaited.
func (v *verifier) verdict(ctx context.Context, r *batch.Request, address string) (*verdict, error) {
	v.mu.Lock()
	defer v.mu.Unlock()
	now := time.Now()
	for _, known := range []verdicts{v.good, v.others} {
		if d := known[r.Owner]; d != nil && !d.isOver(now) {
			return d, nil
		}
	}
	leaveAddress, err := v.addresses.take(address)
	if err != nil {
		return nil, err
	}
	leave, err := v.running.take(r.Target)
	if err != nil {
		leaveAddress()
		return nil, refuse(kindBusy, "the server asks targets about as many credentials as it may at one time: try again later; nothing was stored").with("Retry-After", "1")
	}
	delete(v.good, r.Owner)
	v.others.makeRoom(now)
	d := &verdict{done: make(chan struct{})}
	v.others[r.Owner] = d
	ctx = context.WithoutCancel(ctx) // others may wait for the answer, too
	go func() {
		result, lasts, err := judge(r.Target, v.ask(ctx, r))
		leave()
		if err != nil {
			time.AfterFunc(failedFor, leaveAddress)
		} else {
			leaveAddress()
		}
		v.counts.WithLabelValues(r.Target, result).Inc()
		v.settle(r.Owner, d, lasts, err)
	}()
	return d, nil
}

// settle sets a verdict, and wakes up those who wait for it.
func (v *verifier) settle(owner string, d *verdict, lasts time.Duration, err error) {
	v.mu.Lock()
	defer v.mu.Unlock()
	now := time.Now()
	d.err, d.until = err, now.Add(lasts)
	if err == nil {
		delete(v.others, owner)
		v.good.makeRoom(now)
		v.good[owner] = d
	}
	close(d.done)
}

// judge returns what the answer of a target says about a credential, how long that counts, and the error for submissions
// with it.
func judge(target string, resp *batch.Response) (result string, lasts time.Duration, err error) {
	status, failure := resp.Result.Status, resp.Result.Error
	switch {
	case failure != nil && failure.Code == batch.CodeBlocked:
		return resultBad, badFor, &dialect.UnauthorizedError{Detail: failure.Message + "; nothing was stored"}
	case failure == nil && status >= http.StatusOK && status < http.StatusMultipleChoices:
		return resultGood, goodFor, nil
	case failure == nil && (status == http.StatusUnauthorized || status == http.StatusForbidden):
		return resultBad, badFor, &dialect.UnauthorizedError{Detail: fmt.Sprintf("the target %s refuses the credential (%d): send a valid one; nothing was stored", target, status)}
	}
	why := fmt.Sprintf("it answered %d", status)
	if failure != nil {
		why = failure.Message
	}
	lasts = min(max(resp.After, unknownFor), unknownMost)
	err = refuse(kindUnavailable, "the target %s cannot say now whether the credential is good: try again later; nothing was stored", target).
		with("Retry-After", fmt.Sprint(wholeSeconds(lasts)))
	return resultUnknown, lasts, fmt.Errorf("%w: %s", err, why) // the log has the reason, the client does not get it
}

// isOver reports whether a verdict no longer counts. One that is awaited counts.
func (d *verdict) isOver(now time.Time) bool {
	return !d.until.IsZero() && !now.Before(d.until)
}

// makeRoom removes a verdict if there are too many: one that no longer counts, or else any that no submission waits for.
func (m verdicts) makeRoom(now time.Time) {
	if len(m) < knownMost {
		return
	}
	victim, looked := "", 0
	for owner, d := range m { // in a random order
		if d.until.IsZero() {
			continue
		}
		victim = owner
		if looked++; d.isOver(now) || looked == 16 {
			break
		}
	}
	delete(m, victim)
}
