package queuetest

import (
	"bytes"
	"strings"
	"sync"
)

// LogBuffer is the output of a log that a test can read while others write to it.
type LogBuffer struct {
	mu   sync.Mutex
	Text bytes.Buffer
}

// Write implements [io.Writer].
func (l *LogBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.Text.Write(p)
}

// Count returns how often a message is in the log.
func (l *LogBuffer) Count(message string) int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return strings.Count(l.Text.String(), message)
}

// Corrected is the message of the audit of slots in package consumer.
const Corrected = "slots were counted as used by tasks that do not run: corrected"
