// Package audit writes the audit log: one line of JSON for each thing that a client or a command did to batches, keys or secrets,
// or was refused. A line has no credential, body, header or query, and no URL.
package audit

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"
	"unicode/utf8"

	"github.com/batchd/batchd/internal/apikey"
	"github.com/batchd/batchd/internal/setting"
)

// Version is the version of the fields. It changes if one is renamed, removed, or means something else; new fields
// do not change it.
const Version = 1

// Stdout is the Output that means standard output.
const Stdout = "stdout"

// Config configures the audit log.
type Config struct {
	// Output is stdout, or the path of a file, which is made with the mode 0600, and only appended to. A process
	// makes it again when it was moved or removed. A relative path in a configuration file is relative to the
	// directory of that file. Defaults to none, which writes no audit log.
	Output string `yaml:"output"`
}

// Check reports the faults of the settings.
func (c Config) Check(check *setting.Checker) {
	if strings.ContainsRune(c.Output, 0) {
		check.Faultf("output", "the path has a NUL")
	}
}

// CheckFile reports a file that no process could open, whoever runs it. It does not make the file.
func (c Config) CheckFile(check *setting.Checker) {
	if c.Output == "" || c.Output == Stdout || strings.ContainsRune(c.Output, 0) {
		return
	}
	dir := filepath.Dir(c.Output)
	switch info, err := os.Stat(dir); {
	case errors.Is(err, fs.ErrPermission):
		return // another user may see it
	case errors.Is(err, fs.ErrNotExist):
		check.Faultf("output", "the directory %s does not exist: make it, or name another file", dir)
		return
	case errors.Is(err, syscall.ENOTDIR), err == nil && !info.IsDir():
		check.Faultf("output", "%s is not a directory: name another file", dir)
		return
	case err != nil:
		check.Faultf("output", "cannot look at the directory %s: %w", dir, err)
		return
	}
	if info, err := os.Stat(c.Output); err == nil && info.IsDir() {
		check.Faultf("output", "%s is a directory: name a file in it", c.Output)
	}
}

// Name names what happened. The set is closed.
type Name string

// The names of events.
const (
	// Unaudited is the decision that a route leaves no line.
	Unaudited Name = "-"

	BatchSubmit      Name = "batch.submit"
	BatchList        Name = "batch.list"
	BatchRead        Name = "batch.read"
	BatchEvents      Name = "batch.events"
	BatchCancel      Name = "batch.cancel"
	BatchRetry       Name = "batch.retry"
	BatchDelete      Name = "batch.delete"
	ResultsRead      Name = "results.read"
	DeliveriesRead   Name = "webhook.read"
	WebhookRedeliver Name = "webhook.redeliver"
	SecretRead       Name = "webhook_secret.read"
	MetricsRead      Name = "metrics.read"
	// AuthFailed: the client was not authenticated. Attempted has the name of the route's event.
	AuthFailed    Name = "auth.failed"
	SessionCreate Name = "session.create"
	SessionEnd    Name = "session.end"
	KeyCreate     Name = "key.create"
	KeyRevoke     Name = "key.revoke"
	KeyRotate     Name = "key.rotate"
	SealRotate    Name = "seal.rotate"
)

// Result is how it ended.
type Result string

// The results.
const (
	OK      Result = "ok"      // it was done, whatever became of the answer
	Refused Result = "refused" // the request was at fault
	Failed  Result = "failed"  // batchd or its store was
	Aborted Result = "aborted" // the client hung up before, or the answer was broken off
)

// Event is a line. Empty fields are left out, except those of every line.
type Event struct {
	Version int    `json:"v"`
	Time    string `json:"time"` // RFC 3339 in UTC, with milliseconds
	Name    Name   `json:"event"`
	Result  Result `json:"result"`
	// Attempted is the event of the route where the client was not authenticated.
	Attempted Name `json:"attempted,omitempty"`
	// Mode is the mode of authentication, or cli.
	Mode string `json:"mode,omitempty"`
	// Actor is the name of a key, the subject of a token, or the user of a command. It is empty in the mode
	// passthrough, where ActorOwner says all.
	Actor string `json:"actor,omitempty"`
	// ActorOwner owns what the actor submits, and Owner the batch, the listed batches, or those of a new key. They
	// differ if an administrator acts on the batch of another owner.
	ActorOwner string `json:"actor_owner,omitempty"`
	Owner      string `json:"owner,omitempty"`
	Batch      string `json:"batch,omitempty"`
	Target     string `json:"target,omitempty"`
	// Key is the key of batchd that a command changed, and Scopes are those of a new key.
	Key    string   `json:"key,omitempty"`
	Scopes []string `json:"scopes,omitempty"`
	// Count is how many actions a submission has, or how many values were sealed again.
	Count int `json:"count,omitempty"`
	// Replayed: the submission was accepted before, under its Idempotency-Key.
	Replayed bool `json:"replayed,omitempty"`
	// Route is the method and the path with parameters instead of values.
	Route  string `json:"route,omitempty"`
	Status int    `json:"status,omitempty"`
	// Problem is the type of the problem with which batchd refused the request.
	Problem   string `json:"problem,omitempty"`
	RequestID string `json:"request_id,omitempty"`
	// Client is the address of the connection: that of the proxy, if there is one. Certificate is the subject of
	// the client's certificate, which an authority of server.tls.client_ca_file has signed.
	Client      string `json:"client,omitempty"`
	Certificate string `json:"certificate,omitempty"`
	// Suppressed: so many failures of authentication, or refusals with passthrough, from the address of Client, or from many addresses if there
	// is no Client, have no line of their own.
	Suppressed int `json:"suppressed,omitempty"`
}

// longest is the most bytes of a text in a line.
const longest = 256

// line returns the event as one line of ASCII: characters that control a terminal, or turn the direction of the
// text, are escaped.
func (e Event) line(now time.Time) ([]byte, error) {
	e.Version, e.Time = Version, now.UTC().Format("2006-01-02T15:04:05.000Z07:00")
	for _, text := range []*string{&e.Mode, &e.Actor, &e.ActorOwner, &e.Owner, &e.Batch, &e.Target, &e.Key, &e.Route, &e.Problem, &e.RequestID, &e.Client, &e.Certificate} {
		if apikey.InValue(*text) {
			*text = "(a key)" // a client sent it as an id or a name
		}
		if len(*text) > longest {
			*text = strings.ToValidUTF8((*text)[:longest], "") + "…"
		}
	}
	encoded, err := json.Marshal(e)
	if err != nil {
		return nil, fmt.Errorf("encode a line of the audit log: %w", err)
	}
	out := make([]byte, 0, len(encoded)+1)
	for len(encoded) > 0 {
		r, size := utf8.DecodeRune(encoded)
		switch {
		case r >= 0x20 && r < 0x7f:
			out = append(out, byte(r))
		case r > 0xffff:
			r -= 0x10000
			out = fmt.Appendf(out, `\u%04x\u%04x`, 0xd800+r>>10, 0xdc00+r&0x3ff)
		default:
			out = fmt.Appendf(out, `\u%04x`, r)
		}
		encoded = encoded[size:]
	}
	return append(out, '\n'), nil
}
