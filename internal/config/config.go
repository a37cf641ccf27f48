package config

import (
	"github.com/batchd/batchd/api"
	"github.com/batchd/batchd/api/auth"
	"github.com/batchd/batchd/internal/audit"
	"github.com/batchd/batchd/internal/batch"
	"github.com/batchd/batchd/internal/webhook"
	"github.com/batchd/batchd/queue/rdb"
	"github.com/batchd/batchd/queue/seal"
	"github.com/batchd/batchd/worker"
)

// Config has all settings. It is composed of the settings that other packages declare, and
// of a few that only the commands use. In a Config from [Load], every value is valid and
// every default filled in. Printing or logging it shows no secret.
type Config struct {
	// Listen is the address, host:port, that the API listens on. Port 0 takes a free
	// port; only a variable or a flag may set it. Defaults to 127.0.0.1:8080.
	Listen string `yaml:"listen"`
	// Server configures the listener of the API.
	Server api.ServerConfig `yaml:"server"`
	Log    Log              `yaml:"log"`
	// Audit configures the audit log.
	Audit audit.Config `yaml:"audit"`
	Redis rdb.Config   `yaml:"redis"`
	// Auth configures who may submit batches.
	Auth auth.Config `yaml:"auth"`
	Seal Seal        `yaml:"seal"`
	// Webhooks configures the delivery of webhooks.
	Webhooks worker.WebhookConfig `yaml:"webhooks"`
	Limits   api.Limits           `yaml:"limits"`
	// Quotas bound what each owner may have.
	Quotas  api.Quotas `yaml:"quotas"`
	Worker  Worker     `yaml:"worker"`
	Monitor Monitor    `yaml:"monitor"`
	// Targets are the HTTP APIs to which actions may be sent, at least one.
	Targets []batch.Target `yaml:"targets"`
	// Endpoints are further batch routes, beside the native one at /batch. Defaults to
	// none.
	Endpoints []api.Endpoint `yaml:"endpoints"`

	places map[string]place
}

// Log configures the log on standard error.
type Log struct {
	// Level is the lowest level to log: debug, info, warn or error. Defaults to info.
	Level LogLevel `yaml:"level"`
	// Format is text or json. Defaults to text.
	Format LogFormat `yaml:"format"`
}

// Seal holds the keys that encrypt actions and results at rest. [Load] adds the keys in
// File to Keys.
type Seal struct {
	seal.Config `yaml:",inline"`
	// File is a file with keys, one "id:base64" per line. A relative path in a
	// configuration file is relative to the directory of that file. Defaults to none.
	File string `yaml:"file"`
}

// Worker configures a worker process.
type Worker struct {
	// Listen is the address, host:port, of /healthz, /readyz and /metrics in a worker
	// process without the API. Port 0 is as for the API. Defaults to 127.0.0.1:8081.
	Listen        string `yaml:"listen"`
	worker.Config `yaml:",inline"`
}

// Monitor configures the listener for those who operate batchd.
type Monitor struct {
	// Listen is the address, host:port, of /healthz, /readyz and /metrics in a process with the API, where no client
	// authenticates. The address of the API then has no /metrics. Port 0 is as for the API. Defaults to none: the
	// API serves /metrics and /readyz?verbose to keys with the scope admin or, without authentication, to all.
	Listen string `yaml:"listen"`
}

// Default returns the configuration of an empty file. It has no target, so it is not
// valid yet.
func Default() *Config {
	return &Config{
		Listen:   "127.0.0.1:8080",
		Server:   api.ServerConfig{}.WithDefaults(),
		Log:      Log{Level: "info", Format: LogText},
		Redis:    rdb.Config{}.WithDefaults(),
		Auth:     auth.Config{}.WithDefaults(),
		Webhooks: worker.WebhookConfig{Config: webhook.Config{}.WithDefaults()},
		Limits:   api.DefaultLimits(),
		Quotas:   api.DefaultQuotas(),
		Worker:   Worker{Listen: "127.0.0.1:8081", Config: worker.Config{}.WithDefaults()},
	}
}

// Target returns the target with a name, or nil.
func (c *Config) Target(name string) *batch.Target {
	for i := range c.Targets {
		if c.Targets[i].Name == name {
			return &c.Targets[i]
		}
	}
	return nil
}

// targetNames returns the names of the targets, each once and in their order.
func (c *Config) targetNames() []string {
	var names []string
	seen := map[string]bool{"": true} // a missing name is a fault of its own
	for i := range c.Targets {
		if name := c.Targets[i].Name; !seen[name] {
			seen[name] = true
			names = append(names, name)
		}
	}
	return names
}
