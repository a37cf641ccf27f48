package main

import (
	"bytes"
	"fmt"
	"net/http"
	"strconv"
)

// path is the path of every action. The target answers with the body of the request.
const path = "/echo"

// makeBodies returns the bodies of n actions, of size bytes each. All bodies differ,
// and so do their answers.
func makeBodies(tag string, n, size int) [][]byte {
	const pad = "abcdefghijklmnopqrstuvwxyz0123456789"
	bodies := make([][]byte, n)
	for i := range bodies {
		b := make([]byte, 0, size)
		b = append(b, `{"batch":"`+tag+`","action":`...)
		b = strconv.AppendInt(b, int64(i), 10)
		b = append(b, `,"pad":"`...)
		for len(b) < size-2 {
			b = append(b, pad[:min(len(pad), size-2-len(b))]...)
		}
		bodies[i] = append(b, `"}`...)
	}
	return bodies
}

// appendAction appends the JSON of an action in batchd's format.
func appendAction(to, body []byte) []byte {
	to = append(to, `{"method":"POST","path":"`+path+`","body":`...)
	to = append(to, body...)
	return append(to, '}')
}

// result is the result of one action, for any contender.
type result struct {
	index  int
	status int
	body   []byte
	err    string // why there is no answer
}

// check returns an error unless the results of a run are those of all actions, in their
// order.
func check(sent [][]byte, got []result) error {
	if len(got) != len(sent) {
		return fmt.Errorf("%d actions have %d results", len(sent), len(got))
	}
	for i, r := range got {
		switch {
		case r.err != "":
			return fmt.Errorf("action %d has no answer: %s", i, r.err)
		case r.index != i:
			return fmt.Errorf("the result of action %[2]d is at the position of action %[1]d", i, r.index)
		case r.status != http.StatusOK:
			return fmt.Errorf("action %d was answered with status %d", i, r.status)
		case !bytes.Equal(r.body, sent[i]):
			return fmt.Errorf("action %d was answered with %.80q instead of %.80q", i, r.body, sent[i])
		}
	}
	return nil
}
