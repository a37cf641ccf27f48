package audit

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"
	"unicode/utf8"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/stretchr/testify/require"

	"github.com/batchd/batchd/internal/apikey"
)

// hostile are texts that a client may put into ids, owners and names.
var hostile = []string{
	"", "plain", "two\nlines", "two\r\nlines", "a\x00b", "\x1b[2J\x1b[31m", "\u009b2J", "a\u2028b\u2029c", "\u202eevil", "\u2066x\u2069", "\ufeff", "quote\"", `back\slash`, "\\\"",
	`x","result":"ok","actor":"root`, "x\"}\n{\"v\":1,\"event\":\"key.create\"}", "</script><script>", "\xff\xfe", "\xc3", "\xed\xa0\x80", "💥", "Ünïcode", "\t", "\x7f", "\u0085", "%0a", "${jndi:ldap://x}", "=cmd|' /C calc'!A0",
	strings.Repeat("x", 10_000), strings.Repeat("é", 10_000), strings.Repeat("\n", 500), "\b\b\b\b", "null", "1e999", "a\u200bb", "\U000e0041", "�",
}

func TestAKeyThatIsSentAsANameIsNotWritten(t *testing.T) {
	t.Parallel()
	key := apikey.New()
	for _, text := range []string{key, "x" + key, strings.ReplaceAll(key, "_", "%5F")} {
		line, err := Event{Key: text, Batch: text, RequestID: text}.line(time.Now())
		require.NoError(t, err)
		require.NotContains(t, string(line), key[10:])
	}
}

func TestNoTextBreaksALine(t *testing.T) {
	t.Parallel()
	for _, text := range hostile {
		for i := range 12 {
			e := Event{Name: BatchSubmit, Result: Refused}
			*[]*string{&e.Mode, &e.Actor, &e.ActorOwner, &e.Owner, &e.Batch, &e.Target, &e.Key, &e.Route, &e.Problem, &e.RequestID, &e.Client, &e.Certificate}[i] = text
			line, err := e.line(time.Now())
			require.NoError(t, err)
			require.Equal(t, 1, bytes.Count(line, []byte("\n")))
			require.Equal(t, -1, bytes.IndexFunc(line[:len(line)-1], func(r rune) bool { return r < ' ' || r > '~' }), "%q", line)
			require.Less(t, len(line), 4000)
			var back Event
			dec := json.NewDecoder(bytes.NewReader(line))
			dec.DisallowUnknownFields()
			require.NoError(t, dec.Decode(&back))
			require.Equal(t, Refused, back.Result)
			require.Equal(t, BatchSubmit, back.Name)
			got := *[]*string{&back.Mode, &back.Actor, &back.ActorOwner, &back.Owner, &back.Batch, &back.Target, &back.Key, &back.Route, &back.Problem, &back.RequestID, &back.Client, &back.Certificate}[i]
			if len(text) <= longest && utf8.ValidString(text) {
				require.Equal(t, text, got)
			}
		}
	}
}

// logged opens a log at a path, and returns its lines and what it says about itself.
func logged(t *testing.T, path string) (*Log, *bytes.Buffer, *prometheus.Registry) {
	t.Helper()
	said, registry := &bytes.Buffer{}, prometheus.NewRegistry()
	l, err := Open(Config{Output: path}, io.Discard, slog.New(slog.NewTextHandler(said, nil)), registry)
	require.NoError(t, err)
	t.Cleanup(func() { _ = l.Close() })
	return l, said, registry
}

func lines(t *testing.T, path string) []Event {
	t.Helper()
	content, err := os.ReadFile(path)
	require.NoError(t, err)
	return decoded(t, content)
}

func decoded(t *testing.T, content []byte) (events []Event) {
	t.Helper()
	for line := range bytes.Lines(content) {
		var e Event
		require.NoError(t, json.Unmarshal(line, &e), "%q", line)
		events = append(events, e)
	}
	return events
}

func TestAFileIsPrivateAndOnlyAppendedTo(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "audit.log")
	for i := range 3 {
		l, said, _ := logged(t, path)
		l.Record(Event{Name: KeyCreate, Result: OK, Key: fmt.Sprint(i)})
		require.NoError(t, l.Close())
		require.Empty(t, said.String())
	}
	info, err := os.Stat(path)
	require.NoError(t, err)
	require.Equal(t, os.FileMode(0o600), info.Mode().Perm())
	found := lines(t, path)
	require.Len(t, found, 3)
	require.Equal(t, Version, found[0].Version)
	at, err := time.Parse(time.RFC3339, found[0].Time)
	require.NoError(t, err)
	require.WithinDuration(t, time.Now(), at, time.Minute)
	require.NoError(t, os.Chmod(path, 0o644)) //nolint:gosec // the mode that the log warns of
	_, said, _ := logged(t, path)
	require.Contains(t, said.String(), "other users may read")
}

// logrotate moves the file, and may make a new one.
func TestAFileThatWasMovedIsOpenedAgain(t *testing.T) {
	t.Parallel()
	for name, remake := range map[string]bool{"made anew": true, "moved alone": false} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			path := filepath.Join(t.TempDir(), "audit.log")
			l, said, _ := logged(t, path)
			l.Record(Event{Name: KeyCreate, Key: "1"})
			require.NoError(t, os.Rename(path, path+".1"))
			if remake {
				require.NoError(t, os.WriteFile(path, nil, 0o600))
			}
			l.looked = time.Time{}
			l.Record(Event{Name: KeyCreate, Key: "2"})
			require.Equal(t, "1", lines(t, path+".1")[0].Key)
			require.Equal(t, "2", lines(t, path)[0].Key)
			require.Empty(t, said.String())
		})
	}
	// Where no new file can be made, the one that was moved goes on.
	dir := filepath.Join(t.TempDir(), "d")
	require.NoError(t, os.Mkdir(dir, 0o700))
	l, said, _ := logged(t, filepath.Join(dir, "audit.log"))
	require.NoError(t, os.Rename(dir, dir+"2"))
	for range 5 {
		l.looked = time.Time{}
		l.Record(Event{Name: KeyCreate})
	}
	require.Len(t, lines(t, filepath.Join(dir+"2", "audit.log")), 5)
	require.Equal(t, 1, strings.Count(said.String(), "cannot be opened again"))
}

func TestALineThatCannotBeWrittenIsCounted(t *testing.T) {
	t.Parallel()
	l, said, registry := logged(t, "/dev/full")
	for range 100 {
		l.Record(Event{Name: KeyCreate, RequestID: "r1"})
	}
	require.Equal(t, 1, strings.Count(said.String(), "was not written"), said)
	require.Contains(t, said.String(), "r1")
	found, err := registry.Gather()
	require.NoError(t, err)
	require.Equal(t, "batchd_audit_lost_total", found[0].GetName())
	require.InDelta(t, 100, found[0].GetMetric()[0].GetCounter().GetValue(), 0)
}

// short writes only a part of the next line.
type short struct {
	bytes.Buffer
	left int
}

func (s *short) Write(p []byte) (int, error) {
	if s.left > 0 {
		n, _ := s.Buffer.Write(p[:s.left])
		s.left = 0
		return n, errors.New("no space left")
	}
	return s.Buffer.Write(p)
}

func TestATornLineDoesNotSpoilTheNext(t *testing.T) {
	t.Parallel()
	out := &short{left: 7}
	l, err := Open(Config{Output: Stdout}, out, slog.New(slog.DiscardHandler), nil)
	require.NoError(t, err)
	for range 3 {
		l.Record(Event{Name: KeyCreate, Key: "k"})
	}
	torn, rest, _ := strings.Cut(out.String(), "\n")
	require.Len(t, torn, 7)
	require.Len(t, decoded(t, []byte(rest)), 2)
}

func TestProcessesShareAFile(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "audit.log")
	var all sync.WaitGroup
	for range 4 {
		l, _, _ := logged(t, path)
		for range 4 {
			all.Go(func() {
				for range 50 {
					l.Record(Event{Name: KeyCreate, Owner: strings.Repeat("x", 200)})
				}
			})
		}
	}
	all.Wait()
	require.Len(t, lines(t, path), 800)
}

// shared is a buffer for several goroutines.
type shared struct {
	mu  sync.Mutex
	all bytes.Buffer
}

func (s *shared) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.all.Write(p)
}

func (s *shared) Bytes() []byte {
	s.mu.Lock()
	defer s.mu.Unlock()
	return bytes.Clone(s.all.Bytes())
}

func (s *shared) Reset() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.all.Reset()
}

func TestFailuresDoNotFloodTheLog(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var out shared
		l, err := Open(Config{Output: Stdout}, &out, slog.New(slog.DiscardHandler), nil)
		require.NoError(t, err)
		fail := func(from string, times int) {
			for range times {
				l.RecordFailure(Event{Name: AuthFailed, Result: Refused, Client: from + ":1"}, from)
			}
		}
		fail("192.0.2.1", 1000)
		fail("192.0.2.2", 3)
		require.Len(t, decoded(t, out.Bytes()), linesPerSource+3, "one address does not hide another")
		time.Sleep(window + time.Second)
		found := decoded(t, out.Bytes())
		require.Len(t, found, linesPerSource+4)
		last := found[len(found)-1]
		require.Equal(t, 1000-linesPerSource, last.Suppressed)
		require.Equal(t, "192.0.2.1:1", last.Client)
		fail("192.0.2.1", 1)
		require.Len(t, decoded(t, out.Bytes()), linesPerSource+5, "a new minute")
		time.Sleep(window + time.Second)

		out.Reset()
		for i := range 5000 {
			fail(fmt.Sprintf("192.0.%d.%d", i/200, i%200), 20)
		}
		require.NoError(t, l.Close())
		total := 0
		found = decoded(t, out.Bytes())
		for _, e := range found {
			total += max(1, e.Suppressed)
		}
		require.Equal(t, 100_000, total, "every failure is counted")
		require.LessOrEqual(t, len(found), (mostSources+1)*(linesPerSource+1))
	})
}

func TestWithoutAnOutputThereIsNoLog(t *testing.T) {
	t.Parallel()
	l, err := Open(Config{}, nil, nil, nil)
	require.NoError(t, err)
	require.Nil(t, l)
	l.Record(Event{})
	l.RecordFailure(Event{}, "")
	require.NoError(t, l.Close())
	_, err = Open(Config{Output: filepath.Join(t.TempDir(), "none", "audit.log")}, nil, slog.New(slog.DiscardHandler), nil)
	require.ErrorContains(t, err, "open the audit log")
}
