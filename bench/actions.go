package main

import (
	"bytes"
	"fmt"
	"net/http"
	"strconv"
)

// path is where every action goes. The target answers with the body that it got.
const path = "/echo"

// makeBodies returns the bodies of n actions, of size bytes each. Each is unlike
// any other, and so is the answer to it.
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

// appendAction appends the JSON of an action, as batchd reads it.
func appendAction(to, body []byte) []byte {
	to = append(to, `{"method":"POST","path":"`+path+`","body":`...)
	to = append(to, body...)
	return append(to, '}')
}

// result is what became of one action, in any contender.
type result struct {
	index  int
	status int
	body   []byte
	err    string // why there is no answer
}

// check says what is wrong with the results of a run, which have to be those of
// the actions, all of them, in their order.
func check(sent [][]byte, got []result) error {
	if len(got) != len(sent) {
		return fmt.Errorf("%d actions have %d results", len(sent), len(got))
	}
	for i, r := range got {
		switch {
		case r.err != "":
			return fmt.Errorf("action %d has no answer: %s", i, r.err)
		case r.index != i:
			return fmt.Errorf("in the place of action %d stands the result of action %d", i, r.index)
		case r.status != http.StatusOK:
			return fmt.Errorf("action %d was answered with status %d", i, r.status)
		case !bytes.Equal(r.body, sent[i]):
			return fmt.Errorf("action %d was answered with %.80q instead of %.80q", i, r.body, sent[i])
		}
	}
	return nil
}
