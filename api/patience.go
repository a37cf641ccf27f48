package api

import (
	"context"
	"errors"
	"time"

	"github.com/gin-gonic/gin"

	"github.com/batchd/batchd/internal/batch"
)

// storePatience is how long a request bears with a store that is slow, over all
// of its calls. A client is told within two seconds that it has to come back;
// the rest is for everything else.
const storePatience = 1400 * time.Millisecond

// errStoreSlow is the cause of a context that ended because of that.
var errStoreSlow = &batch.UnavailableError{RetryAfter: 2 * time.Second, Err: errors.New("the store did not answer in time")}

// patience is what is left of a request's patience with the store. One request
// makes its calls one after the other.
type patience struct{ left time.Duration }

type patienceKey struct{}

// bePatient gives every request a patience of its own.
func bePatient(c *gin.Context) {
	ctx := context.WithValue(c.Request.Context(), patienceKey{}, &patience{left: storePatience})
	c.Request = c.Request.WithContext(ctx)
	c.Next()
}

// refresh gives a request that has waited for something else, or has got on, its whole
// patience again.
func refresh(ctx context.Context) {
	if p, ok := ctx.Value(patienceKey{}).(*patience); ok {
		p.left = storePatience
	}
}

// spend bounds a call of the store by what is left of the request's patience.
// Its end is to be deferred with the call's error.
func spend(ctx context.Context) (context.Context, func(*error)) {
	p, ok := ctx.Value(patienceKey{}).(*patience)
	if !ok {
		p = &patience{left: storePatience}
	}
	began := time.Now()
	ctx, cancel := context.WithTimeoutCause(ctx, p.left, errStoreSlow)
	return ctx, func(err *error) {
		p.left -= time.Since(began)
		if errors.Is(*err, context.DeadlineExceeded) && errors.Is(context.Cause(ctx), errStoreSlow) {
			*err = errStoreSlow
		}
		cancel()
	}
}

// pause lets some of the request's patience pass. It reports false, at once, if there is
// not that much left.
func pause(ctx context.Context, d time.Duration) bool {
	p, ok := ctx.Value(patienceKey{}).(*patience)
	if !ok || p.left <= d {
		return false
	}
	p.left -= d
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-ctx.Done():
		return false
	}
}

// patientStore bounds the calls of a store by the patience of their requests.
type patientStore struct{ batch.Store }

// Open implements [batch.Store].
func (s patientStore) Open(ctx context.Context, owner, key string) (_ batch.Upload, err error) {
	ctx, end := spend(ctx)
	defer end(&err)
	u, err := s.Store.Open(ctx, owner, key)
	if err != nil {
		return nil, err
	}
	return patientUpload{u}, nil
}

// Get implements [batch.Store].
func (s patientStore) Get(ctx context.Context, owner, id string, few int) (_ *batch.Batch, err error) {
	ctx, end := spend(ctx)
	defer end(&err)
	return s.Store.Get(ctx, owner, id, few)
}

// List implements [batch.Store].
func (s patientStore) List(ctx context.Context, owner, cursor string, limit int) (_ []*batch.Batch, _ string, err error) {
	ctx, end := spend(ctx)
	defer end(&err)
	return s.Store.List(ctx, owner, cursor, limit)
}

// Results implements [batch.Store].
func (s patientStore) Results(ctx context.Context, owner, id string, q batch.ResultQuery) (_ *batch.ResultPage, err error) {
	bounded, end := spend(ctx)
	defer func() {
		end(&err)
		if err == nil {
			refresh(ctx) // there may be many pages
		}
	}()
	return s.Store.Results(bounded, owner, id, q)
}

// Cancel implements [batch.Store].
func (s patientStore) Cancel(ctx context.Context, owner, id string) (_ *batch.Batch, err error) {
	ctx, end := spend(ctx)
	defer end(&err)
	return s.Store.Cancel(ctx, owner, id)
}

// Retry implements [batch.Store].
func (s patientStore) Retry(ctx context.Context, owner, id string, spec *batch.RetrySpec) (_ *batch.Batch, _ *batch.LimitState, err error) {
	ctx, end := spend(ctx)
	defer end(&err)
	return s.Store.Retry(ctx, owner, id, spec)
}

// Delete implements [batch.Store].
func (s patientStore) Delete(ctx context.Context, owner, id string) (err error) {
	ctx, end := spend(ctx)
	defer end(&err)
	return s.Store.Delete(ctx, owner, id)
}

// Deliveries implements [batch.Store].
func (s patientStore) Deliveries(ctx context.Context, owner, id string) (_ *batch.DeliveryLog, err error) {
	ctx, end := spend(ctx)
	defer end(&err)
	return s.Store.Deliveries(ctx, owner, id)
}

// Redeliver implements [batch.Store].
func (s patientStore) Redeliver(ctx context.Context, owner, id string) (err error) {
	ctx, end := spend(ctx)
	defer end(&err)
	return s.Store.Redeliver(ctx, owner, id)
}

// Ping implements [batch.Store].
func (s patientStore) Ping(ctx context.Context) (err error) {
	ctx, end := spend(ctx)
	defer end(&err)
	return s.Store.Ping(ctx)
}

// patientUpload does the same for an upload, but for Add, which sends to the store
// only now and then: the store bounds that.
type patientUpload struct{ batch.Upload }

// Admit implements [batch.Upload].
func (u patientUpload) Admit(ctx context.Context, n int, limit batch.Limit, partial bool) (_ int, _ batch.LimitState, err error) {
	ctx, end := spend(ctx)
	defer end(&err)
	return u.Upload.Admit(ctx, n, limit, partial)
}

// Commit implements [batch.Upload].
func (u patientUpload) Commit(ctx context.Context, spec *batch.Spec) (_ *batch.Batch, _ bool, err error) {
	ctx, end := spend(ctx)
	defer end(&err)
	return u.Upload.Commit(ctx, spec)
}

// patiently bounds the look-up of an owner in the same way.
func patiently(owner func(context.Context, string) (string, error)) func(context.Context, string) (string, error) {
	if owner == nil {
		return nil
	}
	return func(ctx context.Context, credential string) (_ string, err error) {
		ctx, end := spend(ctx)
		defer end(&err)
		return owner(ctx, credential)
	}
}
