package config

import (
	"github.com/batchd/batchd/api"
	"github.com/batchd/batchd/internal/batch"
	"github.com/batchd/batchd/queue/rdb"
	"github.com/batchd/batchd/queue/seal"
	"github.com/batchd/batchd/worker"
)

// Config is all that can be set. It is composed of the settings that other packages
// declare; those it declares itself are used by the commands. Every value is valid and
// has its default filled in, if [Load] returned it. Printing or logging it shows no secret.
type Config struct {
	// Listen is the address, host:port, that the API listens on. Port 0, which only a
	// variable or a flag may say, takes a free one. Defaults to 127.0.0.1:8080.
	Listen string     `yaml:"listen"`
	Log    Log        `yaml:"log"`
	Redis  rdb.Config `yaml:"redis"`
	// Auth says who may submit batches.
	Auth api.Auth `yaml:"auth"`
	Seal Seal     `yaml:"seal"`
	// Webhooks says how the ends of batches are told.
	Webhooks worker.WebhookConfig `yaml:"webhooks"`
	Limits   api.Limits           `yaml:"limits"`
	Worker   Worker               `yaml:"worker"`
	// Targets are the HTTP APIs that actions may be sent to, at least one.
	Targets []batch.Target `yaml:"targets"`
	// Endpoints are batch routes beside the native one at /batch. Defaults to none.
	Endpoints []api.Endpoint `yaml:"endpoints"`

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

// Seal holds the keys that actions and results are encrypted with at rest. [Load] adds
// those of File to Keys.
type Seal struct {
	seal.Config `yaml:",inline"`
	// File holds the keys instead, one "id:base64" a line. A relative path in a
	// configuration file starts from that file's directory. Defaults to none.
	File string `yaml:"file"`
}

// Worker says how a worker process runs.
type Worker struct {
	// Listen is the address, host:port, of a lone worker's /healthz, /readyz
	// and /metrics. Port 0 is as for the API's. Defaults to 127.0.0.1:8081.
	Listen        string `yaml:"listen"`
	worker.Config `yaml:",inline"`
}

// Default returns the configuration that an empty file stands for. It has no
// target, so it is not valid yet.
func Default() *Config {
	return &Config{
		Listen: "127.0.0.1:8080",
		Log:    Log{Level: "info", Format: LogText},
		Redis:  rdb.Config{}.WithDefaults(),
		Auth:   api.Auth{}.WithDefaults(),
		Limits: api.DefaultLimits(),
		Worker: Worker{Listen: "127.0.0.1:8081", Config: worker.Config{}.WithDefaults()},
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

// targetNames returns the names of the targets, each once and in their order.
func (c *Config) targetNames() []string {
	var names []string
	seen := map[string]bool{"": true} // a name that is missing is a fault of its own
	for i := range c.Targets {
		if name := c.Targets[i].Name; !seen[name] {
			seen[name] = true
			names = append(names, name)
		}
	}
	return names
}
