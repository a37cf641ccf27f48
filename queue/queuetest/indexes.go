package queuetest

import (
	"slices"
	"sync"
)

// Indexes collects the indexes of the actions that a handler was called with.
type Indexes struct {
	mu  sync.Mutex
	all []int
}

// Add adds an index.
func (s *Indexes) Add(index int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.all = append(s.all, index)
}

// Sorted returns the indexes in ascending order.
func (s *Indexes) Sorted() []int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Sorted(slices.Values(s.all))
}
