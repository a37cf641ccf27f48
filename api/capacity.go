package api

import (
	"cmp"

	"github.com/batchd/batchd/internal/setting"
)

// Capacity bounds what the requests of clients may use of one API process at one time.
type Capacity struct {
	// BodyMemory is the most memory for all bodies that are being read, with their
	// decompressors and what was parsed of them, and for answers that are being written.
	// One owner may use half of it, unless all clients are the same owner; the clients of
	// one address without a credential that batchd has checked may use three quarters.
	// While more than half is in use, a request must move what it holds within two minutes.
	// There is an eighth more, but at least 1 MiB, for headers of requests that are longer than 4 KiB.
	// Defaults to 256MiB.
	BodyMemory int64 `yaml:"body_memory"`
	// BodyRatio is how many times larger than its compressed form a body may be.
	// Defaults to 100.
	BodyRatio int `yaml:"body_ratio"`
	// BodyRate is how many bytes of a body must come in a second, and of an answer must be
	// taken, on average of 30 s. Defaults to 256.
	BodyRate int64 `yaml:"body_rate"`
	// Connections is the most open connections. Defaults to 4096.
	Connections int `yaml:"connections"`
	// ConnectionsPerOwner is the most connections whose last request came from one owner,
	// unless all clients are the same owner. Defaults to 1024.
	ConnectionsPerOwner int `yaml:"connections_per_owner"`
	// ConnectionsPerAddress is the most connections from one address without a request
	// whose credential batchd itself has checked. Defaults to 1024.
	ConnectionsPerAddress int `yaml:"connections_per_address"`
	// Streams is the most event streams, and StreamsPerOwner of one owner. Default to 2048
	// and 256.
	Streams         int `yaml:"streams"`
	StreamsPerOwner int `yaml:"streams_per_owner"`
	// Waits is the most requests that wait for the end of a batch, and WaitsPerOwner of one
	// owner. Default to 4096 and 1024.
	Waits         int `yaml:"waits"`
	WaitsPerOwner int `yaml:"waits_per_owner"`
	// CredentialChecks is the most requests to targets about credentials at one time; one
	// target gets half of them. CredentialChecksPerAddress is the most for the clients of
	// one address, and how many of their credentials may fail in a second. See
	// [batch.Target.Verify]. Default to 64 and 8.
	CredentialChecks           int `yaml:"credential_checks"`
	CredentialChecksPerAddress int `yaml:"credential_checks_per_address"`
}

// WithDefaults returns the settings with zero values replaced.
func (p Capacity) WithDefaults() Capacity {
	p.BodyMemory = cmp.Or(p.BodyMemory, 256<<20)
	p.BodyRatio = cmp.Or(p.BodyRatio, 100)
	p.BodyRate = cmp.Or(p.BodyRate, 256)
	p.Connections = cmp.Or(p.Connections, 4096)
	p.ConnectionsPerOwner = cmp.Or(p.ConnectionsPerOwner, 1024)
	p.ConnectionsPerAddress = cmp.Or(p.ConnectionsPerAddress, 1024)
	p.Streams = cmp.Or(p.Streams, 2048)
	p.StreamsPerOwner = cmp.Or(p.StreamsPerOwner, 256)
	p.Waits = cmp.Or(p.Waits, 4096)
	p.WaitsPerOwner = cmp.Or(p.WaitsPerOwner, 1024)
	p.CredentialChecks = cmp.Or(p.CredentialChecks, 64)
	p.CredentialChecksPerAddress = cmp.Or(p.CredentialChecksPerAddress, 8)
	return p
}

// Check reports the faults of the settings.
func (p Capacity) Check(c *setting.Checker) {
	c.Size("body_memory", p.BodyMemory, 1<<20, 1<<40)
	c.Int("body_ratio", p.BodyRatio, 1, 1_000_000)
	c.Size("body_rate", p.BodyRate, 1, 1<<30)
	const most = 10_000_000
	c.Int("connections", p.Connections, 1, most)
	c.Int("connections_per_owner", p.ConnectionsPerOwner, 1, most)
	c.Int("connections_per_address", p.ConnectionsPerAddress, 1, most)
	c.Int("streams", p.Streams, 1, most)
	c.Int("streams_per_owner", p.StreamsPerOwner, 1, most)
	c.Int("waits", p.Waits, 1, most)
	c.Int("waits_per_owner", p.WaitsPerOwner, 1, most)
	c.Int("credential_checks", p.CredentialChecks, 1, 10_000)
	c.Int("credential_checks_per_address", p.CredentialChecksPerAddress, 1, 10_000)
}
