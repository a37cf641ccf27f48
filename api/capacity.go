package api

import (
	"cmp"

	"github.com/batchd/batchd/internal/setting"
)

// Capacity bounds what the requests of clients may use of one API process at one time.
type Capacity struct {
	// BodyMemory is the most memory for all bodies that are being read, with their
	// decompressors and what was parsed of them. One owner may use half of it, unless
	// all clients are the same owner. Defaults to 256MiB.
	BodyMemory int64 `yaml:"body_memory"`
	// BodyRatio is how many times larger than its compressed form a body may be.
	// Defaults to 100.
	BodyRatio int `yaml:"body_ratio"`
}

// WithDefaults returns the settings with zero values replaced.
func (p Capacity) WithDefaults() Capacity {
	p.BodyMemory = cmp.Or(p.BodyMemory, 256<<20)
	p.BodyRatio = cmp.Or(p.BodyRatio, 100)
	return p
}

// Check reports the faults of the settings.
func (p Capacity) Check(c *setting.Checker) {
	c.Size("body_memory", p.BodyMemory, 1<<20, 1<<40)
	c.Int("body_ratio", p.BodyRatio, 1, 1_000_000)
}
