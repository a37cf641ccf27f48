package queue

import (
	"cmp"
	"context"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/google/uuid"
	"github.com/hibiken/asynq"
	"github.com/redis/go-redis/v9"

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
	rdb     redis.UniversalClient
	cluster *redis.ClusterClient // the same, if it is one
	steps   *scripts
	seals   *seal.Sealer
	log     *slog.Logger
	inspect *asynq.Inspector
	notices *notices
	// Two shortcuts for a process that serves the API and runs actions. Each can be switched off where Open sets it.
	handOver  handOver
	piggyback piggyback
	embed     *embedded
	fanouts   *fanouts
	combine   *combiner
	seated    atomic.Int64 // actions that have places here
	name      string       // tells this process from others on the same Redis
	shards    int          // queues of a lane
	tokens    atomic.Uint64
	// releasing is held by each release under way.
	releasing chan struct{}
	newID     func() (uuid.UUID, error)
	// timeout bounds one exchange with Redis, and half of it a look at its memory and one that stages a chunk of
	// a larger upload, since somebody waits to be told to come back.
	timeout time.Duration
	slowFor time.Duration // see there, as lookFor
	lookFor time.Duration
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
	nodesAway sync.Map // the nodes of a cluster that did not answer, by address, and until when they are left out

	takersMu sync.Mutex
	takers   map[*taker]struct{}
	memory   memory
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
		log: cfg.Logger, name: rand.Text(), shards: 1, takers: make(map[*taker]struct{}), newID: uuid.NewV7, attempts: newAttempts(),
		releasing: make(chan struct{}, mostReleasing),
		timeout:   cmp.Or(cfg.Timeout, defaultTimeout), pause: pause, slowFor: slowFor, lookFor: lookFor, renewEvery: renewEvery,
	}
	s.history = newHistory(s.restoreSoon)
	if s.log == nil {
		s.log = slog.New(slog.DiscardHandler)
	}
	var err error
	if s.steps, err = loadScripts(); err != nil {
		return nil, err
	}
	cfg.Redis = cfg.Redis.WithDefaults()
	if cfg.Redis.URL == rdb.Embedded {
		if s.embed, err = startEmbedded(); err != nil {
			return nil, err
		}
		s.rdb = s.embed.client(s.timeout)
		if len(cfg.Seal.Keys) == 0 {
			cfg.Seal.Keys = []seal.Key{seal.RandomKey()}
		}
	} else if s.rdb, err = rdb.Connect(cfg.Redis.URL.Reveal(), s.timeout, s.history.connected); err != nil {
		return nil, err
	}
	if cluster, ok := s.rdb.(*redis.ClusterClient); ok {
		s.shards, s.cluster = clusterShards, cluster
		s.history.learning = true // until its servers have been met
	}
	s.rdb.AddHook(rdb.KeptReplies{})
	if s.seals, err = seal.New(cfg.Seal); err != nil {
		return nil, errors.Join(err, s.Close())
	}
	s.inspect = asynq.NewInspectorFromRedisClient(s.rdb)
	s.notices = newNotices(s.rdb, s.log, s.name)
	s.handOver = s.notices
	s.piggyback = localConsumers{s}
	s.fanouts = newFanouts()
	s.combine = newCombiner(s)
	return s, nil
}

// Close ends what runs in the background and closes the connections. Fan-outs
// that are cut off by it are finished by the sweeper.
func (s *Store) Close() error {
	if s.combine != nil { // first: its steps may leave batches in doubt
		s.combine.close()
	}
	if s.fanouts != nil {
		s.fanouts.stop()
		s.closeDoubted()
	}
	if s.notices != nil {
		s.notices.close()
	}
	err := s.rdb.Close()
	if s.embed != nil {
		s.embed.close()
	}
	return err
}

// Sealed reports whether what is stored is sealed.
func (s *Store) Sealed() bool { return s.seals.Enabled() }

// Ping implements [batch.Store]. It reads a key: a server that cannot persist its
// data refuses PING along with writes, but still answers reads.
func (s *Store) Ping(ctx context.Context) error {
	ctx, cancel := s.withTimeout(ctx)
	defer cancel()
	return rdb.MapError(ctx, s.rdb.Exists(ctx, openKey).Err())
}

// defaultTimeout is the default of Config.Timeout.
const defaultTimeout = 2 * time.Second

// pause is the default of Store.pause.
func pause(ctx context.Context, d time.Duration) error {
	select {
	case <-ctx.Done():
		return context.Cause(ctx)
	case <-time.After(d):
		return nil
	}
}

// withTimeout bounds one exchange with Redis, by the timeout and by what is left of the
// request's [batch.Budget]. Its end has to be called when the exchange is over.
func (s *Store) withTimeout(ctx context.Context) (_ context.Context, end context.CancelFunc) {
	budget := batch.BudgetOf(ctx)
	ctx, cancel := context.WithTimeoutCause(ctx, budget.Begin(s.timeout), rdb.ErrSlow)
	if budget == nil {
		return ctx, cancel
	}
	return ctx, sync.OnceFunc(func() {
		cancel()
		budget.End()
	})
}

// detached returns a context for what has to be done although the caller's may end, and
// whatever is left of the request's budget.
func detached(ctx context.Context) context.Context {
	return batch.WithoutBudget(context.WithoutCancel(ctx))
}

// send sends what is in a pipeline. Each command has its own reply or its own error; see
// [replies]. If no connection could be opened, go-redis says so to the pipeline alone, and
// the commands would look as if they were answered.
func (s *Store) send(ctx context.Context, pipe redis.Pipeliner) []redis.Cmder {
	cmds, err := pipe.Exec(ctx)
	if err == nil || slices.ContainsFunc(cmds, func(cmd redis.Cmder) bool { return cmd.Err() != nil }) {
		return cmds
	}
	for _, cmd := range cmds {
		cmd.SetErr(err)
	}
	return cmds
}

// answer returns the answer to a step that was sent by its digest in a pipeline. If
// the server does not know that, it sends the step once more by its text.
func (s *Store) answer(ctx context.Context, step *redis.Script, cmd *redis.Cmd) *redis.Cmd {
	if err := cmd.Err(); err == nil || !redis.HasErrorPrefix(err, "NOSCRIPT") {
		return cmd
	}
	args := cmd.Args() // EVALSHA, digest, number of keys, those, arguments
	n, _ := args[2].(int)
	keys := make([]string, n)
	for i := range keys {
		keys[i] = rdb.Text(args[3+i])
	}
	return step.Eval(ctx, s.rdb, keys, args[3+n:]...)
}

// run runs one step of the ledger and returns its answer as strings.
func (s *Store) run(ctx context.Context, step *redis.Script, keys []string, args ...any) ([]string, error) {
	ctx, cancel := s.withTimeout(ctx)
	defer cancel()
	answer, err := step.Run(ctx, s.rdb, keys, args...).Result()
	if err != nil {
		return nil, rdb.MapError(ctx, err)
	}
	switch v := answer.(type) {
	case string:
		return []string{v}, nil
	case []any:
		out := make([]string, len(v))
		for i, x := range v {
			out[i] = fmt.Sprint(x)
		}
		return out, nil
	default:
		return []string{fmt.Sprint(v)}, nil
	}
}

// members returns the members of a set.
func (s *Store) members(ctx context.Context, key string) ([]string, error) {
	ctx, cancel := s.withTimeout(ctx)
	defer cancel()
	members, err := s.rdb.SMembers(ctx, key).Result()
	return members, rdb.MapError(ctx, err)
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
	ctx, cancel := s.withTimeout(ctx)
	defer cancel()
	fresh := make([]byte, 32)
	_, _ = rand.Read(fresh) // never fails: crypto/rand ends the program instead
	where := seal.Label{ID: "salt", Kind: "o"}
	if err := s.rdb.SetNX(ctx, saltKey, s.seals.Seal(where, fresh), 0).Err(); err != nil {
		return nil, rdb.MapError(ctx, err)
	}
	stored, err := s.rdb.Get(ctx, saltKey).Bytes()
	if err != nil {
		return nil, rdb.MapError(ctx, err)
	}
	salt, err := s.seals.Open(where, stored)
	if err != nil {
		return nil, err
	}
	if !s.seals.Current(stored) { // so that the old key can be dropped
		if err := s.rdb.Set(ctx, saltKey, s.seals.Seal(where, salt), 0).Err(); err != nil {
			return nil, rdb.MapError(ctx, err)
		}
	}
	s.owners.Store(&salt)
	return salt, nil
}

// nodeOf returns the node of a cluster that has a key, or nil on anything else, or while
// the cluster is not known.
func (s *Store) nodeOf(ctx context.Context, key string) *redis.Client {
	if s.cluster == nil {
		return nil
	}
	node, err := s.cluster.MasterForKey(ctx, key)
	if err != nil {
		return nil
	}
	return node
}
