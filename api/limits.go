package api

import (
	"errors"
	"time"

	"github.com/batchd/batchd/internal/setting"
)

// Limits bound what a submission may ask for, and how much one owner may have.
type Limits struct {
	// MaxActions is the most actions of one batch. Defaults to 100000.
	MaxActions int `yaml:"max_actions"`
	// MaxBody is the most bytes of a submission, after decompression. Defaults to 256MiB.
	MaxBody int64 `yaml:"max_body"`
	// MaxActionBody is the most bytes of one action's body. Defaults to 1MiB.
	MaxActionBody int64 `yaml:"max_action_body"`
	// ExpiresIn is the time from acceptance to the deadline, for a batch that does not
	// set it. Defaults to 24h.
	ExpiresIn time.Duration `yaml:"expires_in"`
	// MaxExpiresIn is the longest time to the deadline that a batch may set. Defaults
	// to 720h.
	MaxExpiresIn time.Duration `yaml:"max_expires_in"`
	// Retention is how long results are kept after the end of a batch that does not set
	// it. Defaults to 24h.
	Retention time.Duration `yaml:"retention"`
	// MaxRetention is the longest retention that a batch may set. Defaults to 720h.
	MaxRetention time.Duration `yaml:"max_retention"`
	// MaxWait is the longest time that a request may wait for a batch to end. With 0,
	// no request waits. Defaults to 60s.
	MaxWait time.Duration `yaml:"max_wait"`
	// Capacity bounds what requests may use of one API process at one time.
	Capacity Capacity `yaml:",inline"`
	// Admission bounds what one owner may submit, over all endpoints that have no limit of
	// their own. In the mode passthrough the same credential is another owner at each
	// endpoint and target. The same limits apply to a retry. Per_item is for endpoints only.
	Admission Admission `yaml:",inline"`
	// PerAddress is how many times the rate and the concurrent of one owner, here and of
	// endpoints, the clients of one address may use together in the mode passthrough, where
	// a client can invent credentials and so owners. An IPv6 client counts by its /64. 0 is
	// no bound. Defaults to 1.
	PerAddress int `yaml:"per_address"`
}

// DefaultLimits returns the limits of a server whose configuration sets none.
func DefaultLimits() Limits {
	return Limits{
		PerAddress:    1,
		MaxActions:    100_000,
		MaxBody:       256 << 20,
		MaxActionBody: 1 << 20,
		ExpiresIn:     24 * time.Hour,
		MaxExpiresIn:  720 * time.Hour,
		Retention:     24 * time.Hour,
		MaxRetention:  720 * time.Hour,
		MaxWait:       time.Minute,
		Capacity:      Capacity{}.WithDefaults(),
		Admission:     Admission{}.WithDefaults(),
	}
}

// Check reports the faults of the limits.
func (l Limits) Check(c *setting.Checker) {
	const longest = 365 * 24 * time.Hour
	c.Int("max_actions", l.MaxActions, 1, 1_000_000)
	c.Size("max_body", l.MaxBody, 1<<10, 64<<30)
	c.Size("max_action_body", l.MaxActionBody, 1, 512<<20)
	c.Duration("max_expires_in", l.MaxExpiresIn, time.Second, longest)
	c.Duration("expires_in", l.ExpiresIn, time.Second, longest)
	c.Duration("max_retention", l.MaxRetention, time.Second, longest)
	c.Duration("retention", l.Retention, time.Second, longest)
	c.Duration("max_wait", l.MaxWait, 0, time.Hour)
	l.Capacity.Check(c)
	l.Admission.Check(c)
	c.Int("per_address", l.PerAddress, 0, 1_000_000)
	if l.Admission.WhenExceeded == PerItem {
		c.Check("when_exceeded", errors.New("per_item is for endpoints with a dialect: set reject or queue here, and per_item under an endpoint's limits"))
	}
	c.SizesInOrder("max_action_body", l.MaxActionBody, "max_body", l.MaxBody)
	c.DurationsInOrder("expires_in", l.ExpiresIn, "max_expires_in", l.MaxExpiresIn)
	c.DurationsInOrder("retention", l.Retention, "max_retention", l.MaxRetention)
}
