package batch

import (
	"context"
	"errors"
	"time"
)

// ErrNoSession says that a session does not exist, has ended or was idle for too long.
var ErrNoSession = errors.New("there is no such session")

// SessionStore keeps the sessions of people who signed in. A session has an id and belongs to a group: the
// sessions of one owner, the number of which is bounded.
type SessionStore interface {
	// PutSession stores a new session, which the store forgets after its lifetime at the latest.
	PutSession(ctx context.Context, group, id string, value []byte, lifetime time.Duration) error
	// Session returns a session. With use, the session counts as used now; a session that was not used for
	// the time idle is gone. It returns [ErrNoSession] if there is none.
	Session(ctx context.Context, group, id string, idle time.Duration, use bool) ([]byte, error)
	// EndSession forgets a session, if there is one.
	EndSession(ctx context.Context, group, id string) error
}
