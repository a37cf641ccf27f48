package api

import (
	"net/http"
	"regexp"
	"strings"

	"github.com/batchd/batchd/internal/batch"
)

// nesting recognises requests that would be a batch in a batch, in whatever
// spelling, so that no batch can multiply itself.
type nesting struct {
	mounts [][]string        // of all batch endpoints, in segments
	bases  [][]string        // paths of the targets' base URLs, and the empty one
	last   map[string]string // the last segment of an endpoint's path, by that path
}

// version matches the segment by which APIs name their version: an endpoint that
// is mounted for one speaks for all.
var version = regexp.MustCompile(`^v[0-9]+(\.[0-9]+)*$`)

func newNesting(endpoints []Endpoint, bases []string) *nesting {
	n := &nesting{bases: [][]string{{""}}, last: make(map[string]string, len(endpoints))}
	for i := range endpoints {
		mount := segmentsOf(endpoints[i].Path)
		n.mounts = append(n.mounts, mount)
		n.last[endpoints[i].Path] = mount[len(mount)-1]
	}
	for _, base := range bases {
		n.bases = append(n.bases, segmentsOf(base))
	}
	return n
}

// refuse refuses an action, or one whose undo is such a request. Beside the
// paths where batch endpoints are mounted, the last segment of the endpoint's own
// counts, for a target whose base URL has the rest of it.
func (n *nesting) refuse(ep *Endpoint, a *batch.Action) {
	if n.nested(ep, a) || a.Undo != nil && n.nested(ep, a.Undo) {
		a.Refusal = &batch.Failure{Code: batch.CodeBlocked, Message: "not sent: a batch cannot be an action of a batch"}
	}
}

func (n *nesting) nested(ep *Endpoint, a *batch.Action) bool {
	for _, path := range batch.Readings(a.Path) {
		if len(path) == 2 && path[1] == "batch" && a.Method == http.MethodPost {
			return true
		}
		if ep != nil && len(path) == 2 {
			if last := n.last[ep.Path]; !strings.HasPrefix(last, ":") && path[1] == last {
				return true
			}
		}
		for _, base := range n.bases {
			for _, mount := range n.mounts {
				if covers(mount, base, path[1:]) {
					return true
				}
			}
		}
	}
	return false
}

// segmentsOf returns the segments of a configured path as actions' paths are compared
// with them.
func segmentsOf(path string) []string {
	readings := batch.Readings(path)
	return readings[len(readings)-1]
}

// covers reports whether a base with a path below it, both in segments, is where an
// endpoint is mounted.
func covers(mount, base, path []string) bool {
	if len(mount) != len(base)+len(path) {
		return false
	}
	return meets(mount[:len(base)], base) && meets(mount[len(base):], path)
}

func meets(mount, path []string) bool {
	for i, segment := range mount {
		if !strings.HasPrefix(segment, ":") && segment != path[i] && (!version.MatchString(segment) || !version.MatchString(path[i])) {
			return false
		}
	}
	return true
}
