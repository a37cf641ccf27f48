package api

import "sync"

// slots bound how many requests of one kind run at one time.
type slots struct {
	what           string // in the plural, for errors
	most, perOwner int
	of             string // whose they are, for errors

	mu     sync.Mutex
	used   int
	owners map[string]int
}

func newSlots(what string, most, perOwner int) *slots {
	return &slots{what: what, most: most, perOwner: perOwner, of: "owner", owners: make(map[string]int)}
}

// take takes a slot for an owner. The caller gives it back by leave, once.
func (s *slots) take(owner string) (leave func(), err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case s.owners[owner] >= s.perOwner:
		return nil, refuse(kindLimited, "you have as many %s as one %s may have at one time, which is %d", s.what, s.of, s.perOwner).with("Retry-After", "1")
	case s.used >= s.most:
		return nil, refuse(kindBusy, "the server has as many %s as it may have at one time: try again later", s.what).with("Retry-After", "1")
	}
	s.used++
	s.owners[owner]++
	return func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		s.used--
		if s.owners[owner]--; s.owners[owner] == 0 {
			delete(s.owners, owner)
		}
	}, nil
}
