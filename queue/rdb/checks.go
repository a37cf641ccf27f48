package rdb

import (
	"context"

	"github.com/batchd/batchd/internal/batch"
)

// Checks returns what an operator should know about this Redis now. The details name no address and no error of
// Redis, which the log has.
func (db *DB) Checks(ctx context.Context) []batch.Check {
	if db.Embed != nil {
		return []batch.Check{{Name: "store", State: batch.CheckOK, Detail: "in the memory of this process, which loses all batches when it ends"}}
	}
	server, err := db.info(ctx, "server")
	if err != nil {
		return []batch.Check{{Name: "redis", State: batch.CheckFailed, Detail: "does not answer"}}
	}
	checks := []batch.Check{{Name: "redis", State: batch.CheckOK, Detail: "version " + InfoField(server, "redis_version")}}
	faults, err := db.Preflight(ctx)
	for _, fault := range faults {
		checks = append(checks, batch.Check{Name: "redis_configuration", State: batch.CheckFailed, Detail: fault})
	}
	switch {
	case err != nil:
		checks = append(checks, batch.Check{Name: "redis_configuration", State: batch.CheckWarning, Detail: "cannot be read"})
	case len(faults) == 0:
		checks = append(checks, batch.Check{Name: "redis_configuration", State: batch.CheckOK, Detail: "keeps all keys when it is full"})
	}
	return append(checks, db.persistence(ctx))
}

// persistence returns whether this Redis keeps acknowledged batches if it crashes.
func (db *DB) persistence(ctx context.Context) batch.Check {
	c := batch.Check{Name: "redis_persistence", State: batch.CheckOK, Detail: "append-only file"}
	info, err := db.info(ctx, "persistence")
	switch {
	case err != nil:
		c.State, c.Detail = batch.CheckWarning, "cannot be read"
	case InfoField(info, "aof_last_write_status") == "err", InfoField(info, "rdb_last_bgsave_status") == "err":
		c.State, c.Detail = batch.CheckFailed, "the last write to its disk failed"
	case InfoField(info, "aof_enabled") != "1":
		c.State, c.Detail = batch.CheckWarning, "no append-only file, so a crash of Redis loses what it acknowledged since its last snapshot: set appendonly yes"
	}
	return c
}

func (db *DB) info(ctx context.Context, section string) (string, error) {
	ctx, cancel := db.WithTimeout(ctx)
	defer cancel()
	info, err := db.Client.Info(ctx, section).Result()
	return info, MapError(ctx, err)
}
