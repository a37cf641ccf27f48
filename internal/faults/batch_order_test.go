package faults

import (
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/batchd/batchd/client"
)

// The batches of an owner run one after another or share the target, as the target's
// setting requires.
func TestTheBatchesOfAnOwnerComeInTheConfiguredOrder(t *testing.T) {
	t.Parallel()
	for order, settings := range map[string]string{"default": "", "fair": ", batch_order: fair", "fifo": ", batch_order: fifo"} {
		t.Run(order, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t)
			w.concurrency, w.targetSettings = 1, settings
			w.target.delay = 2 * time.Millisecond
			w.startAPI()
			batches := []*planned{
				plan("first", 40, http.MethodPost), plan("second", 40, http.MethodPost), plan("small", 5, http.MethodPost), plan("third", 40, http.MethodPost),
			}
			for _, p := range batches {
				w.submit(p, client.Options{})
			}
			w.startWorker("w")
			w.settle(time.Minute, batches...)
			var came []string
			w.target.set(func(x *target) {
				for _, v := range x.visits {
					tag, _, _ := strings.Cut(v.id, "-")
					came = append(came, tag)
				}
			})
			require.Len(t, came, 125)
			if order == "fifo" {
				require.Equal(t, []string{"first", "second", "small", "third"}, slices.Compact(came))
				return
			}
			require.Less(t, lastOf(came, "small"), 20, "a small batch waits for no turn of another: %v", came)
			for _, tag := range []string{"first", "second", "third"} {
				require.Less(t, slices.Index(came, tag), 60, "%v", came)
				require.Greater(t, lastOf(came, tag), 80, "%v", came)
			}
		})
	}
}

// lastOf returns the last index of a text.
func lastOf(all []string, text string) int {
	for i, s := range slices.Backward(all) {
		if s == text {
			return i
		}
	}
	return -1
}
