package api

import (
	"errors"
	"net/http"
	"net/netip"
	"sync"
	"time"

	"github.com/gin-gonic/gin"

	"github.com/batchd/batchd/api/auth"
	"github.com/batchd/batchd/internal/setting"
)

// holdTime is how long it may take to move the bytes that a request holds, while more than
// half of the budget is in use.
const holdTime = 2 * time.Minute

// memory is the budget for the bodies that the process reads, and the answers that it
// writes, at one time. One owner may hold half of it, so that its requests do not keep
// those of others out, and the clients of one address without a credential that batchd
// itself has checked three quarters. Clients without authentication are all of them, and
// may hold the whole.
type memory struct {
	size int64
	step int64 // the unit of reservations

	mu        sync.Mutex
	used      int64
	owners    map[string]int64
	addresses map[netip.Prefix]int64
}

func newMemory(size int64) *memory {
	return &memory{size: size, step: reservationStep, owners: make(map[string]int64), addresses: make(map[netip.Prefix]int64)}
}

// reservation is the part of the budget that one body or answer holds. Only one goroutine
// uses it.
type reservation struct {
	memory *memory
	owner  string
	// address is that of a client whose credential batchd has not checked. Otherwise it is
	// not valid.
	address netip.Prefix
	held    int64
}

// reserve returns an empty reservation. The caller releases it.
func (m *memory) reserve(owner string, address netip.Prefix) *reservation {
	return &reservation{memory: m, owner: owner, address: address}
}

// answer changes the reservation to n bytes of an answer, or to the most that one answer
// counts for, so that every answer has room in a budget that is not in use.
func (r *reservation) answer(n int64) error {
	m := r.memory
	err := r.set(min(n, m.size/4))
	if refused, ok := errors.AsType[*requestError](err); ok && refused.kind == kindLimited {
		return refuse(kindLimited, "your answers and bodies that are being read or sent use all of the memory that one owner or address may use at one time: read answers faster").
			with("Retry-After", "1")
	}
	if err != nil {
		return refuse(kindBusy, "the answers and bodies of requests use all of the memory for them: try again later, and read answers faster").
			with("Retry-After", "1")
	}
	return nil
}

// rate returns how many bytes a second the client must move, which are at least the given
// ones. When memory is scarce, they depend on what the request holds: otherwise a client
// holds memory for as long as it likes, for a few bytes now and then.
func (r *reservation) rate(least int64) int64 {
	if r == nil {
		return least
	}
	r.memory.mu.Lock()
	defer r.memory.mu.Unlock()
	if r.memory.used <= r.memory.size/2 {
		return least
	}
	return max(least, r.held/int64(holdTime/time.Second))
}

// reservationStep is the unit of reservations for bodies. Steps keep small reads off the lock.
const reservationStep = 16 << 10

// set changes the reservation to at least n bytes. If the budget has no room for them,
// the reservation stays as it is.
func (r *reservation) set(n int64) error {
	m := r.memory
	n = (n + m.step - 1) / m.step * m.step
	if n == r.held {
		return nil
	}
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
	case r.address.IsValid() && m.addresses[r.address]+more > m.size/4*3:
		return refuse(kindLimited, "the requests from your address that are being read use all of the memory that one address may use at one time; nothing of this one was stored").
			with("Retry-After", "1")
	case m.used+more > m.size:
		return refuse(kindBusy, "the requests that are being read use all of the memory for them: try again later; nothing of this one was stored").
			with("Retry-After", "1")
	}
	r.held = n
	m.used += more
	r.add(more)
	return nil
}

// add counts bytes for the owner and the address. The caller has the lock.
func (r *reservation) add(more int64) {
	m := r.memory
	if m.owners[r.owner] += more; m.owners[r.owner] == 0 {
		delete(m.owners, r.owner)
	}
	if r.address.IsValid() {
		if m.addresses[r.address] += more; m.addresses[r.address] == 0 {
			delete(m.addresses, r.address)
		}
	}
}

// countFor counts the reservation for another owner and address, even if these then hold more than their share.
func (r *reservation) countFor(owner string, address netip.Prefix) {
	r.memory.mu.Lock()
	defer r.memory.mu.Unlock()
	r.add(-r.held)
	r.owner, r.address = owner, address
	r.add(r.held)
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

// hold returns an empty reservation for the answer to a request, which the client must
// take at the rate that it demands. The caller releases it.
func (s *Server) hold(c *gin.Context) *reservation {
	r := s.memory.reserve(payer(c), uncheckedAddress(c))
	for w := http.ResponseWriter(c.Writer); w != nil; {
		if paced, ok := w.(*paceWriter); ok {
			paced.memory = r
			break
		}
		wrapper, ok := w.(interface{ Unwrap() http.ResponseWriter })
		if !ok {
			break
		}
		w = wrapper.Unwrap()
	}
	return r
}

// uncheckedAddress returns what counts as the client of a request if batchd has not checked its
// credential: clients can invent as many as they like.
func uncheckedAddress(c *gin.Context) netip.Prefix {
	if principal(c).Mode != auth.ModePassthrough {
		return netip.Prefix{}
	}
	return network(c.Request)
}
