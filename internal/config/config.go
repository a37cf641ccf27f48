package config

import (
	"time"

	"github.com/batchd/batchd/api"
	"github.com/batchd/batchd/internal/batch"
)

// Config is all that can be set. Every value is valid and has its default
// filled in, where [Load] returned it. Printing or logging it shows no secret.
type Config struct {
	// Listen is the address, host:port, that the API listens on. Port 0, which only a
	// variable or a flag may say, takes a free one. Defaults to 127.0.0.1:8080.
	Listen string `yaml:"listen"`
	Log    Log    `yaml:"log"`
	Redis  Redis  `yaml:"redis"`
	Auth   Auth   `yaml:"auth"`
	Seal   Seal   `yaml:"seal"`
	// Webhooks says how the ends of batches are told.
	Webhooks Webhooks `yaml:"webhooks"`
	Limits   Limits   `yaml:"limits"`
	Worker   Worker   `yaml:"worker"`
	// Targets are the HTTP APIs that actions may be sent to, at least one.
	Targets []batch.Target `yaml:"targets"`
	// Endpoints are batch routes beside the native one at /batch. Defaults to none.
	Endpoints []Endpoint `yaml:"endpoints"`

	places map[string]place
}

// Log says what is logged, to standard error.
type Log struct {
	// Level is the least level that is logged: debug, info, warn or error.
	// Defaults to info.
	Level LogLevel `yaml:"level"`
	// Format is text or json. Defaults to text.
	Format LogFormat `yaml:"format"`
}

// Redis says where batches are kept.
type Redis struct {
	// URL is "embedded", or that of a Redis, a Sentinel or a Cluster. Defaults
	// to embedded.
	URL RedisURL `yaml:"url"`
}

// Auth says who may submit batches.
type Auth struct {
	// Mode is none or passthrough. Defaults to none.
	Mode AuthMode `yaml:"mode"`
}

// Seal holds the keys that actions and results are encrypted with at rest.
type Seal struct {
	// Keys are tried in their order: the first seals, all open. [Load] adds
	// those of File. Defaults to none, which stores in clear.
	Keys []SealKey `yaml:"keys"`
	// File holds the keys instead, one "id:base64" a line. A relative path in a
	// configuration file starts from that file's directory. Defaults to none.
	File string `yaml:"file"`
}

// Webhooks says how receivers of webhooks are served.
type Webhooks struct {
	// Secret signs webhooks as Standard Webhooks does: "whsec_" and the base64
	// of 24 to 64 bytes. Defaults to none.
	Secret Secret `yaml:"secret"`
	// AllowPrivate lets webhooks go to loopback and private addresses. Defaults
	// to false.
	AllowPrivate bool `yaml:"allow_private"`
}

// Limits bounds what one submission may ask for.
type Limits struct {
	// MaxActions is the most actions of a batch. Defaults to 100000.
	MaxActions int `yaml:"max_actions"`
	// MaxBody is the most bytes of a submission, after decompression. Defaults
	// to 256MiB.
	MaxBody ByteSize `yaml:"max_body"`
	// MaxActionBody is the most bytes of one action's body. Defaults to 1MiB.
	MaxActionBody ByteSize `yaml:"max_action_body"`
	// ExpiresIn is the time from acceptance to the deadline, for a batch that
	// asks for none. Defaults to 24h.
	ExpiresIn time.Duration `yaml:"expires_in"`
	// MaxExpiresIn is the longest that a batch may ask for. Defaults to 720h.
	MaxExpiresIn time.Duration `yaml:"max_expires_in"`
	// Retention is how long results are kept after the end, for a batch that
	// asks for nothing else. Defaults to 24h.
	Retention time.Duration `yaml:"retention"`
	// MaxRetention is the longest that a batch may ask for. Defaults to 720h.
	MaxRetention time.Duration `yaml:"max_retention"`
	// MaxWait is the longest that a request may wait for a batch to end.
	// Defaults to 60s.
	MaxWait time.Duration `yaml:"max_wait"`
	// Rate is the most actions that one owner may submit in any window, such as
	// 1500/min. Defaults to no bound.
	Rate batch.Rate `yaml:"rate"`
	// Concurrent is the most actions of one owner that may be in flight. 0, the
	// default, is no bound.
	Concurrent int `yaml:"concurrent"`
	// WhenExceeded says what becomes of a submission beyond Rate or Concurrent:
	// reject, per_item or queue. Defaults to reject. A retry is held to the same
	// limits; per_item rejects it.
	WhenExceeded WhenExceeded `yaml:"when_exceeded"`
}

// Worker says how actions are run.
type Worker struct {
	// Listen is the address, host:port, of a lone worker's /healthz, /readyz
	// and /metrics. Port 0 is as for the API's. Defaults to 127.0.0.1:8081.
	Listen string `yaml:"listen"`
	// Drain is how long actions in flight may take to end at shutdown. Defaults
	// to 25s.
	Drain time.Duration `yaml:"drain"`
}

// Endpoint is a batch route of its own.
type Endpoint struct {
	// Path is where it is mounted, with or without a slash at its end. A segment
	// such as ":instance" is a parameter, which some dialects need.
	Path string `yaml:"path"`
	// Dialect is its wire format: native, asana, requests, syncano or primaerp.
	// Defaults to native.
	Dialect Dialect `yaml:"dialect"`
	// Target is the name of the target that its batches go to. Defaults to the
	// only one, where there is but one.
	Target string `yaml:"target"`
	// MaxActions is the most actions of a batch. Defaults to that of the dialect,
	// which is 10 for asana, 50 for syncano and 100 for primaerp, or else to that
	// of the limits.
	MaxActions int `yaml:"max_actions"`
	// Limits bound what one owner may submit here. Without a rate and a number
	// those of the whole count, over all endpoints together.
	Limits EndpointLimits `yaml:"limits"`
	// Wait is how long a submission waits for its results where the request
	// does not say. Defaults to 0s, which answers at once, and for a dialect,
	// which always answers with results, to limits.max_wait, but at most 60s.
	Wait time.Duration `yaml:"wait"`
	// CancelOnDisconnect cancels the batch of a client that hangs up while it
	// waits. Defaults to false, which lets the batch go on.
	CancelOnDisconnect bool `yaml:"cancel_on_disconnect"`
}

// EndpointLimits are an endpoint's own limits on what one owner may submit.
type EndpointLimits struct {
	// Rate is the most actions in any window. Defaults to no bound.
	Rate batch.Rate `yaml:"rate"`
	// Concurrent is the most actions in flight. 0, the default, is no bound.
	Concurrent int `yaml:"concurrent"`
	// WhenExceeded is reject, per_item or queue. Defaults to reject.
	WhenExceeded WhenExceeded `yaml:"when_exceeded"`
}

// Default returns the configuration that an empty file stands for. It has no
// target, so it is not valid yet.
func Default() *Config {
	limits := api.DefaultLimits()
	return &Config{
		Listen: "127.0.0.1:8080",
		Log:    Log{Level: "info", Format: LogText},
		Redis:  Redis{URL: Embedded},
		Auth:   Auth{Mode: AuthNone},
		Limits: Limits{
			MaxActions:    limits.MaxActions,
			MaxBody:       ByteSize(limits.MaxBody),
			MaxActionBody: ByteSize(limits.MaxActionBody),
			ExpiresIn:     limits.ExpiresIn,
			MaxExpiresIn:  limits.MaxExpiresIn,
			Retention:     limits.Retention,
			MaxRetention:  limits.MaxRetention,
			MaxWait:       limits.MaxWait,
			WhenExceeded:  ExceededReject,
		},
		Worker: Worker{Listen: "127.0.0.1:8081", Drain: 25 * time.Second},
	}
}

// Target returns the target of that name, or nil.
func (c *Config) Target(name string) *batch.Target {
	for i := range c.Targets {
		if c.Targets[i].Name == name {
			return &c.Targets[i]
		}
	}
	return nil
}
