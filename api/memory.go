package api

import (
	"sync"

	"github.com/batchd/batchd/api/auth"
	"github.com/batchd/batchd/internal/setting"
)

// memory is the budget for the bodies that the process reads at one time. One owner may
// hold half of it, so that its bodies do not keep those of others out. Clients without
// authentication are all of them, and may hold the whole.
type memory struct {
	size int64

	mu     sync.Mutex
	used   int64
	owners map[string]int64
}

func newMemory(size int64) *memory { return &memory{size: size, owners: make(map[string]int64)} }

// reservation is the part of the budget that one body holds. Only one goroutine uses it.
type reservation struct {
	memory *memory
	owner  string
	held   int64
}

// reserve returns an empty reservation. The caller releases it.
func (m *memory) reserve(owner string) *reservation { return &reservation{memory: m, owner: owner} }

// reservationStep is the unit of reservations. Steps keep small reads off the lock.
const reservationStep = 16 << 10

// set changes the reservation to at least n bytes. If the budget has no room for them,
// the reservation stays as it is.
func (r *reservation) set(n int64) error {
	n = (n + reservationStep - 1) / reservationStep * reservationStep
	if n == r.held {
		return nil
	}
	m := r.memory
	m.mu.Lock()
	defer m.mu.Unlock()
	more, share, all := n-r.held, m.size, r.owner == auth.Anonymous
	if !all {
		share /= 2
	}
	switch {
	case more < 0:
	case n > share:
		return refuse(kindTooLarge, "to read the body needs more memory than the %s that requests may use: send it in several batches, or raise limits.body_memory",
			setting.ByteSize(share))
	case !all && m.owners[r.owner]+more > share:
		return refuse(kindLimited, "your requests that are being read use all of the memory that one owner may use at one time; nothing of this one was stored").
			with("Retry-After", "1")
	case m.used+more > m.size:
		return refuse(kindBusy, "the requests that are being read use all of the memory for them: try again later; nothing of this one was stored").
			with("Retry-After", "1")
	}
	r.held = n
	m.used += more
	if m.owners[r.owner] += more; m.owners[r.owner] == 0 {
		delete(m.owners, r.owner)
	}
	return nil
}

// release gives everything back. It may be called more than once.
func (r *reservation) release() {
	_ = r.set(0) // giving back cannot fail
}

// inUse returns the bytes that all bodies hold.
func (m *memory) inUse() int64 {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.used
}
