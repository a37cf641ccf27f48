package client

import (
	"context"
	"net/http"
	"time"
)

// Caller says who a client is for the server, and what it may do.
type Caller struct {
	// Mode is how the server authenticated the client: "keys", "jwt", "passthrough" or "none".
	Mode string `json:"mode"`
	// Name is the name of the key, or the owner in the token. It can be empty.
	Name string `json:"name,omitempty"`
	// Owner owns the client's batches. It is empty if the client is another owner at each endpoint and target.
	Owner string `json:"owner,omitempty"`
	// Scopes are some of "submit", "read", "cancel" and "admin".
	Scopes []string `json:"scopes"`
	// Targets are the targets that the client may send actions to.
	Targets []string `json:"targets"`
	// Expires is when the credential expires, or nil.
	Expires *time.Time `json:"expires,omitempty"`
}

// WhoAmI returns who the client is for the server.
func (c *Client) WhoAmI(ctx context.Context) (*Caller, error) {
	return retryTransient(ctx, c.retryFor, func() (*Caller, error) {
		return decode[Caller](ctx, c, call{method: http.MethodGet, root: "whoami"})
	})
}
