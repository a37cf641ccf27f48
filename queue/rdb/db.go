package rdb

import (
	"cmp"
	"context"
	"crypto/rand"
	"fmt"
	"log/slog"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/batchd/batchd/internal/certs"
)

// DefaultTimeout is the default of [Options.Timeout].
const DefaultTimeout = 2 * time.Second

// Options configure a [DB].
type Options struct {
	// Timeout bounds one exchange with Redis. Defaults to [DefaultTimeout].
	Timeout time.Duration
	// OnConnect is called with every new connection, before it is used. Defaults to nothing. The
	// embedded store does not call it.
	OnConnect func(ctx context.Context, conn *redis.Conn) error
	// Logger gets what becomes of renewed certificates, and why TLS fails. Defaults to one that discards.
	Logger *slog.Logger
}

// DB is one Redis: a server, the master that sentinels know, a cluster, or the store in this
// process. It is safe for concurrent use.
type DB struct {
	// Client sends single commands and pipelines. A pipeline is sent with [DB.Send].
	Client redis.UniversalClient
	// Cluster is the same client if Redis is a cluster, and nil otherwise.
	Cluster *redis.ClusterClient
	// Embed is the store in this process, and nil if the Redis is another one.
	Embed *EmbeddedStore
	// Timeout bounds one exchange with Redis. It must not change once the DB is used.
	Timeout time.Duration
	// Name tells this process from others on the same Redis.
	Name string

	tokens    atomic.Uint64
	slow      error    // the cause of an exchange that took too long: ErrSlow, or a slow
	stopWatch func()   // ends the watch over the files of TLS
	nodesAway sync.Map // until when a node of a cluster that did not answer is left out, by its address
}

// Open returns the DB of a configuration. It does not wait for Redis: while Redis is away, every
// exchange returns a [batch.UnavailableError], and it succeeds as soon as Redis is back.
func Open(cfg Config, o Options) (*DB, error) {
	db := &DB{Timeout: cmp.Or(o.Timeout, DefaultTimeout), Name: rand.Text(), stopWatch: func() {}, slow: ErrSlow}
	cfg = cfg.WithDefaults()
	var err error
	if cfg.URL == Embedded {
		if db.Embed, err = startEmbedded(); err != nil {
			return nil, err
		}
		db.Client = db.Embed.client(db.Timeout)
	} else if err = db.connect(cfg, o); err != nil {
		return nil, err
	}
	db.Cluster, _ = db.Client.(*redis.ClusterClient)
	db.Client.AddHook(KeptReplies{})
	return db, nil
}

// connect makes the client, and watches the files of TLS if there are any.
func (db *DB) connect(cfg Config, o Options) error {
	var files *certs.ClientFiles
	if cfg.TLS.FirstSet() != "" {
		if !cfg.URL.encrypted() {
			return fmt.Errorf("the URL of Redis begins with %s://, and so the connections would not be encrypted: let it begin with rediss, or remove redis.tls", cfg.URL.Scheme())
		}
		var err error
		if files, err = certs.OpenClient(cfg.TLS, "redis.tls", o.Logger); err != nil {
			return fmt.Errorf("open the certificates of redis.tls: %w", err)
		}
	}
	var err error
	secure := NewSecure(files, db.Timeout/2, o.Logger)
	if cfg.URL.encrypted() {
		db.slow = &slow{secure}
	}
	if db.Client, err = Connect(cfg.address(), db.Timeout, secure, o.OnConnect); err != nil || files == nil {
		return err
	}
	ctx, cancel := context.WithCancel(context.Background())
	var watch sync.WaitGroup
	watch.Go(func() { files.Watch(ctx) })
	db.stopWatch = func() {
		cancel()
		watch.Wait()
	}
	return nil
}

// Token returns a text that no other call returns, in any process.
func (db *DB) Token() string { return db.Name[:12] + strconv.FormatUint(db.tokens.Add(1), 36) }

// Close closes the connections, and ends the embedded store if there is one.
func (db *DB) Close() error {
	err := db.Client.Close()
	db.stopWatch()
	if db.Embed != nil {
		db.Embed.close()
	}
	return err
}
