package queue

import (
	"context"
	"errors"
	"log/slog"
	"time"

	"github.com/batchd/batchd/internal/batch"
	"github.com/batchd/batchd/queue/apikeys"
	"github.com/batchd/batchd/queue/batcher"
	"github.com/batchd/batchd/queue/batches"
	"github.com/batchd/batchd/queue/fanout"
	"github.com/batchd/batchd/queue/keys"
	"github.com/batchd/batchd/queue/ledger"
	"github.com/batchd/batchd/queue/limits"
	"github.com/batchd/batchd/queue/lists"
	"github.com/batchd/batchd/queue/rdb"
	"github.com/batchd/batchd/queue/repair"
	"github.com/batchd/batchd/queue/seal"
	"github.com/batchd/batchd/queue/sessions"
	"github.com/batchd/batchd/queue/tasks"
	"github.com/batchd/batchd/queue/throttle"
	"github.com/batchd/batchd/queue/upload"
)

// Config configures a [Store].
type Config struct {
	// Redis says where batches are kept.
	Redis rdb.Config
	// Seal holds the keys that encrypt stored values.
	Seal seal.Config
	// Logger defaults to one that discards.
	Logger *slog.Logger
	// Timeout bounds one exchange with Redis. Defaults to 2 s, well below the time that clients
	// of the API wait. Tests that are not about an unavailable Redis set a longer one.
	Timeout time.Duration
}

// Store keeps batches in Redis. It implements [batch.Store]; its parts implement the other interfaces
// of package batch. It is safe for concurrent use.
type Store struct {
	DB         *rdb.DB
	Log        *slog.Logger
	Seals      *seal.Sealer
	Background *rdb.Background
	PubSub     *rdb.PubSub

	Keys     *apikeys.Keys      // a [batch.KeyStore]
	Sessions *sessions.Sessions // a [batch.SessionStore]
	Tasks    *tasks.Queues
	Limits   *limits.Limits
	Batches  *batches.Batches
	Lists    *lists.Lists
	Batcher  *batcher.Batcher
	Ledger   *ledger.Ledger // a [batch.Ledger]
	Fanout   *fanout.Fanout
	Gate     *throttle.Gate // a [batch.Gate]
	Uploads  *upload.Uploads
	Sweeper  *repair.Sweeper // a [batch.Sweeper]
}

var (
	_ batch.Store       = (*Store)(nil)
	_ batch.Ledger      = (*ledger.Ledger)(nil)
	_ batch.GroupLedger = (*ledger.Ledger)(nil)
	_ batch.Gate        = (*throttle.Gate)(nil)
	_ batch.Sweeper     = (*repair.Sweeper)(nil)
	_ batch.Registry    = (*repair.Recovery)(nil)
)

// Open connects to the Redis that the URL names. The schemes are
//
//	embedded                                      a store in this process, for trying and for tests
//	redis://[user:password@]host[:port][/db]      one server; rediss:// with TLS
//	redis+sentinel://host,host:port/db?master=n   the master that the sentinels know as n
//	redis+cluster://host:port,host:port           a cluster; rediss+… with TLS for both
//
// It does not wait for Redis: a store whose Redis is away answers
// [batch.UnavailableError] and works as soon as it is back.
func Open(cfg Config) (*Store, error) {
	s := &Store{Log: cfg.Logger, Background: rdb.NewBackground()}
	if s.Log == nil {
		s.Log = slog.New(slog.DiscardHandler)
	}
	history := ledger.NewHistory()
	var err error
	if s.DB, err = rdb.Open(cfg.Redis, rdb.Options{Timeout: cfg.Timeout, OnConnect: history.Connected, Logger: s.Log}); err != nil {
		return nil, err
	}
	if s.DB.Embed != nil && len(cfg.Seal.Keys) == 0 {
		cfg.Seal.Keys = []seal.Key{seal.RandomKey()}
	}
	if s.Seals, err = seal.New(cfg.Seal); err != nil {
		return nil, errors.Join(err, s.DB.Close())
	}
	if s.DB.Cluster != nil {
		history.ExpectNewServers(true) // until its servers have been met
	}
	s.PubSub = rdb.NewPubSub(s.DB, s.Log)
	s.Keys = apikeys.New(s.DB, s.Log, s.Seals)
	s.Sessions = sessions.New(s.DB, s.Seals)
	s.Tasks = tasks.New(s.DB, s.Log)
	s.Limits = limits.New(s.DB, s.Log)
	s.Batches = batches.New(s.DB, s.Log, s.Seals, s.Background, s.PubSub, s.Tasks, s.Limits)
	s.Lists = lists.New(s.DB, s.Log, s.Batches)
	s.Batcher = batcher.New(s.DB, s.Batches.Doubts.AddIf)
	// With ledger.NoHandOver{} instead of the waiters, a request that waits for a batch reads it from Redis.
	s.Ledger = ledger.New(s.DB, s.Log, s.Seals, s.Background, s.Batcher, s.Tasks, s.Batches, s.Batches.Waiters, history)
	s.Fanout = fanout.New(s.DB, s.Log, s.Background, s.Tasks, s.Limits, s.Batches)
	s.Gate = throttle.New(s.DB, s.PubSub, s.Tasks)
	s.Uploads = upload.New(s.DB, s.Log, s.Seals, s.Background, s.Tasks, s.Limits, s.Batches, s.Fanout)
	s.Sweeper = repair.New(s.DB, s.Log, s.Tasks, s.Batches, s.Lists, s.Ledger, s.Fanout)
	s.Ledger.Restorer.OnForgotten(s.Sweeper.LookAtAll)
	return s, nil
}

// Close ends the work in the background and closes the connections. The sweeper finishes fan-outs that
// Close interrupts.
func (s *Store) Close() error {
	s.Batcher.Close() // first: its steps may leave batches in doubt
	s.Background.Stop()
	s.Batches.Doubts.Close()
	s.PubSub.Close()
	return s.DB.Close()
}

// Sealed reports whether what is stored is sealed.
func (s *Store) Sealed() bool { return s.Seals.Enabled() }

// Preflight returns the reasons why batches must not be kept in this Redis, each with what to do
// about it.
func (s *Store) Preflight(ctx context.Context) ([]string, error) {
	return s.DB.Preflight(ctx)
}

// Checks returns what an operator should know about the store now.
func (s *Store) Checks(ctx context.Context) []batch.Check {
	checks := s.DB.Checks(ctx)
	if s.DB.Embed == nil {
		sealing := batch.Check{Name: "sealing", State: batch.CheckOK, Detail: "what is stored is encrypted"}
		switch {
		case !s.Sealed():
			sealing.State, sealing.Detail = batch.CheckWarning, "what is stored is not encrypted, so actions with credentials are refused: set seal.keys"
		case s.Seals.AcceptsClear():
			sealing.State, sealing.Detail = batch.CheckWarning, "batches in clear are accepted: run batchd seal rotate, then remove seal.accept_clear_until"
		}
		if checks[0].State != batch.CheckFailed { // Redis answers
			if err := s.CheckSeals(ctx); errors.Is(err, seal.ErrSealed) {
				sealing.State, sealing.Detail = batch.CheckFailed, err.Error()
			}
		}
		checks = append(checks, sealing)
	}
	return checks
}

// CheckSeals checks whether this store can open what other processes have sealed. Otherwise the error wraps
// [seal.ErrSealed] and says what to do.
func (s *Store) CheckSeals(ctx context.Context) error {
	if s.DB.Embed != nil {
		return nil
	}
	return s.Batches.Owners.Check(ctx)
}

// PrepareSeals is [Store.CheckSeals] before this store seals values: it lets processes with other keys notice.
func (s *Store) PrepareSeals(ctx context.Context) error {
	if s.DB.Embed != nil {
		return nil
	}
	return s.Batches.Owners.Prepare(ctx)
}

// Ping implements [batch.Store]. It reads a key: a server that cannot persist its
// data refuses PING along with writes, but still answers reads.
func (s *Store) Ping(ctx context.Context) error {
	ctx, cancel := s.DB.WithTimeout(ctx)
	defer cancel()
	return rdb.MapError(ctx, s.DB.Client.Exists(ctx, keys.OpenKey).Err())
}

// Owner returns the owner's name for a credential that is passed through; see [owners.Owners.Name].
func (s *Store) Owner(ctx context.Context, credential string) (string, error) {
	return s.Batches.Owners.Name(ctx, credential)
}

// Open implements [batch.Store].
func (s *Store) Open(ctx context.Context, owner, key string) (batch.Upload, error) {
	return s.Uploads.Open(ctx, owner, key)
}

// Get implements [batch.Store].
func (s *Store) Get(ctx context.Context, owner, id string, few int) (*batch.Batch, error) {
	return s.Batches.Get(ctx, owner, id, few)
}

// List implements [batch.Store].
func (s *Store) List(ctx context.Context, owners batch.Owners, cursor string, limit int) ([]*batch.Batch, string, error) {
	return s.Lists.List(ctx, owners, cursor, limit)
}

// OwnerOf implements [batch.Store].
func (s *Store) OwnerOf(ctx context.Context, owners batch.Owners, id string) (string, error) {
	return s.Batches.OwnerOf(ctx, owners, id)
}

// Results implements [batch.Store].
func (s *Store) Results(ctx context.Context, owner, id string, q batch.ResultQuery) (*batch.ResultPage, error) {
	return s.Batches.Results(ctx, owner, id, q)
}

// Cancel implements [batch.Store].
func (s *Store) Cancel(ctx context.Context, owner, id string) (*batch.Batch, error) {
	return s.Batches.Cancel(ctx, owner, id)
}

// Delete implements [batch.Store].
func (s *Store) Delete(ctx context.Context, owner, id string) error {
	return s.Batches.Delete(ctx, owner, id)
}

// Retry implements [batch.Store].
func (s *Store) Retry(ctx context.Context, owner, id string, spec *batch.RetrySpec) (*batch.Batch, *batch.LimitState, error) {
	return s.Fanout.Retry(ctx, owner, id, spec)
}

// Watch implements [batch.Store].
func (s *Store) Watch(id string) (wake <-chan *batch.Batch, stop func()) { return s.Batches.Watch(id) }

// Redeliver implements [batch.Store].
func (s *Store) Redeliver(ctx context.Context, owner, id string) error {
	return s.Batches.Deliveries.Redeliver(ctx, owner, id)
}

// Deliveries implements [batch.Store].
func (s *Store) Deliveries(ctx context.Context, owner, id string) (*batch.DeliveryLog, error) {
	return s.Batches.Deliveries.Log(ctx, owner, id)
}
