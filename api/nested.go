package api

import (
	"net/http"
	"regexp"
	"strings"

	"github.com/batchd/batchd/internal/batch"
)

// nesting recognizes requests that would be a batch in a batch, in any spelling, so
// that no batch can multiply itself.
type nesting struct {
	mounts [][]string        // paths of all batch endpoints, in segments
	bases  [][]string        // paths of the targets' base URLs in segments, and the empty path
	last   map[string]string // from an endpoint's path to its last segment
}

// version matches a segment that names an API version. An endpoint that is mounted for
// one version covers all versions.
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

// refuse refuses an action that is such a request, or whose undo is. It checks the
// paths of all batch endpoints, and also the last segment of the endpoint's own path,
// because a target's base URL may contain the rest.
func (n *nesting) refuse(ep *Endpoint, a *batch.Action) {
	if n.nested(ep, a) || a.Undo != nil && n.nested(ep, a.Undo) {
		a.Refusal = &batch.Failure{Code: batch.CodeBlocked, Message: "not sent: a batch cannot be an action of a batch"}
	}
}

func (n *nesting) nested(ep *Endpoint, a *batch.Action) bool {
	readings := batch.Readings(a.Path)
	if readings == nil {
		return true // there are too many to exclude it
	}
	for _, path := range readings {
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

// segmentsOf returns the segments of a configured path, in the form that is compared
// with the paths of actions.
func segmentsOf(path string) []string {
	readings := batch.Readings(path)
	return readings[len(readings)-1]
}

// covers reports whether an endpoint is mounted at a base with a path below it, both in
// segments.
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
