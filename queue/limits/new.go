// Package limits admits actions by the limits of their owners: a rate, and a number of actions in flight.
package limits

import (
	"log/slog"

	"github.com/batchd/batchd/queue/rdb"
)

// Limits are the limits of all owners.
type Limits struct {
	db  *rdb.DB
	log *slog.Logger
}

// New returns the limits in a Redis.
func New(db *rdb.DB, log *slog.Logger) *Limits { return &Limits{db: db, log: log} }
