package queue

import (
	"context"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/google/uuid"
	"github.com/hibiken/asynq"

	"github.com/batchd/batchd/internal/batch"
	"github.com/batchd/batchd/queue/rdb"
	"github.com/batchd/batchd/queue/seal"
)

// Config configures a [Store].
type Config struct {
	// Redis says where batches are kept.
	Redis rdb.Config
	// Seal holds the keys that what is stored is encrypted with.
	Seal seal.Config
	// Logger defaults to one that discards.
	Logger *slog.Logger
	// Timeout bounds one exchange with Redis. Defaults to 2 s, which is well below what
	// a client of the API is willing to wait. A test that is not about a Redis which is
	// away has more of it, for a machine that is busy.
	Timeout time.Duration
}

// Store keeps batches in Redis. It implements [batch.Store] and [batch.Ledger],
// and is safe for concurrent use.
type Store struct {
	db      *rdb.DB
	steps   *scripts
	seals   *seal.Sealer
	log     *slog.Logger
	inspect *asynq.Inspector
	pubsub  *rdb.PubSub
	waiters *waiters
	// Two shortcuts for a process that serves the API and runs actions. Each can be switched off where Open sets it.
	handOver    handOver
	piggyback   piggyback
	background  *rdb.Background
	offered     offered
	combine     *combiner
	running     atomic.Int64       // actions that this process runs
	local       func(queue string) // wakes the consumers of this process
	onForgotten func()             // is called when Redis may have forgotten something
	shards      int                // queues of a lane
	// releasing is held by each release under way.
	releasing chan struct{}
	newID     func() (uuid.UUID, error)
	slowFor   time.Duration // see there, as lookFor
	lookFor   time.Duration
	// renewEvery is how often the sweeper extends its lease during a round.
	renewEvery time.Duration
	// pause waits for that long, or returns why the context has ended.
	pause func(ctx context.Context, d time.Duration) error
	beats sync.Map // the workers of this process, and when each said last that it is alive

	attempts  *attempts
	history   *history
	restoring restoring
	holders   holders
	feeder    feeder

	takersMu sync.Mutex
	takers   map[*taker]struct{}
	memory   *memoryGuard
	stalls   stalls
	schedule schedule
	doubted  doubted

	suspected time.Time              // when the sweeper last looked for queues with tasks that nobody runs
	owners    atomic.Pointer[[]byte] // the salt of the owners' names, once read
}

var (
	_ batch.Store    = (*Store)(nil)
	_ batch.Ledger   = (*Store)(nil)
	_ batch.Sweeper  = (*Store)(nil)
	_ batch.Registry = (*Store)(nil)
	_ batch.Gate     = (*Store)(nil)
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
	s := &Store{
		log: cfg.Logger, shards: 1, takers: make(map[*taker]struct{}), newID: uuid.NewV7, attempts: newAttempts(),
		releasing: make(chan struct{}, mostReleasing), background: rdb.NewBackground(), offered: offered{pause: notePause},
		pause: pause, slowFor: slowFor, lookFor: lookFor, renewEvery: renewEvery,
	}
	s.history = newHistory()
	s.history.onChange(s.restoreSoon)
	if s.log == nil {
		s.log = slog.New(slog.DiscardHandler)
	}
	var err error
	if s.steps, err = loadScripts(); err != nil {
		return nil, err
	}
	if s.db, err = rdb.Open(cfg.Redis, rdb.Options{Timeout: cfg.Timeout, OnConnect: s.history.connected}); err != nil {
		return nil, err
	}
	if s.db.Embed != nil && len(cfg.Seal.Keys) == 0 {
		cfg.Seal.Keys = []seal.Key{seal.RandomKey()}
	}
	if s.db.Cluster != nil {
		s.shards = clusterShards
		s.history.learn(true) // until its servers have been met
	}
	if s.seals, err = seal.New(cfg.Seal); err != nil {
		return nil, errors.Join(err, s.Close())
	}
	s.inspect = asynq.NewInspectorFromRedisClient(s.db.Client)
	s.pubsub = rdb.NewPubSub(s.db, s.log)
	s.waiters = newWaiters(s.pubsub, s.db.Name)
	s.handOver = s.waiters
	s.piggyback = localConsumers{s}
	s.combine = newCombiner(s.db, s.doubtIf)
	s.local = s.wake
	s.onForgotten = func() {
		s.schedule.lookAtAll()
		s.redisForgot()
	}
	s.memory = &memoryGuard{db: s.db, waiting: s.waitingEverywhere}
	return s, nil
}

// Close ends what runs in the background and closes the connections. Fan-outs
// that are cut off by it are finished by the sweeper.
func (s *Store) Close() error {
	if s.combine != nil { // first: its steps may leave batches in doubt
		s.combine.close()
	}
	s.background.Stop()
	s.closeDoubted()
	if s.pubsub != nil {
		s.pubsub.Close()
	}
	return s.db.Close()
}

// Sealed reports whether what is stored is sealed.
func (s *Store) Sealed() bool { return s.seals.Enabled() }

// Preflight returns the reasons why batches must not be kept in this Redis, each with what to do
// about it.
func (s *Store) Preflight(ctx context.Context) ([]string, error) {
	return s.db.Preflight(ctx)
}

// Watch implements [batch.Store].
func (s *Store) Watch(id string) (<-chan *batch.Batch, func()) { return s.waiters.watch(id) }

// Ping implements [batch.Store]. It reads a key: a server that cannot persist its
// data refuses PING along with writes, but still answers reads.
func (s *Store) Ping(ctx context.Context) error {
	ctx, cancel := s.db.WithTimeout(ctx)
	defer cancel()
	return rdb.MapError(ctx, s.db.Client.Exists(ctx, openKey).Err())
}

// pause is the default of Store.pause.
func pause(ctx context.Context, d time.Duration) error {
	select {
	case <-ctx.Done():
		return context.Cause(ctx)
	case <-time.After(d):
		return nil
	}
}

// Owner returns the owner's name for a credential that is passed through: a hash
// keyed with a salt that all processes on this Redis share, so that neither the
// credential nor a hash that could be looked up elsewhere is ever stored.
func (s *Store) Owner(ctx context.Context, credential string) (string, error) {
	salt, err := s.salt(ctx)
	if err != nil {
		return "", fmt.Errorf("read the owners' salt: %w", err)
	}
	mac := hmac.New(sha256.New, salt)
	mac.Write([]byte(credential))
	return hex.EncodeToString(mac.Sum(nil)[:16]), nil
}

func (s *Store) salt(ctx context.Context) ([]byte, error) {
	if salt := s.owners.Load(); salt != nil {
		return *salt, nil
	}
	ctx, cancel := s.db.WithTimeout(ctx)
	defer cancel()
	fresh := make([]byte, 32)
	_, _ = rand.Read(fresh) // never fails: crypto/rand ends the program instead
	where := seal.Label{ID: "salt", Kind: "o"}
	if err := s.db.Client.SetNX(ctx, saltKey, s.seals.Seal(where, fresh), 0).Err(); err != nil {
		return nil, rdb.MapError(ctx, err)
	}
	stored, err := s.db.Client.Get(ctx, saltKey).Bytes()
	if err != nil {
		return nil, rdb.MapError(ctx, err)
	}
	salt, err := s.seals.Open(where, stored)
	if err != nil {
		return nil, err
	}
	if !s.seals.Current(stored) { // so that the old key can be dropped
		if err := s.db.Client.Set(ctx, saltKey, s.seals.Seal(where, salt), 0).Err(); err != nil {
			return nil, rdb.MapError(ctx, err)
		}
	}
	s.owners.Store(&salt)
	return salt, nil
}
