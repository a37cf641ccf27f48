package queuetest

import (
	"bytes"
	"strings"
	"sync"
)

// Logged is a log that can be read while it is written.
type Logged struct {
	mu   sync.Mutex
	Text bytes.Buffer
}

func (l *Logged) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.Text.Write(p)
}

func (l *Logged) Count(message string) int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return strings.Count(l.Text.String(), message)
}

const Corrected = "slots were counted as used by tasks that do not run: corrected"
