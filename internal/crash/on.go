//go:build crashpoints

package crash

import (
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
)

// armed reads once at which point, and at which passing, this process must die.
var armed = sync.OnceValues(func() (Point, int64) {
	at, nth, counted := strings.Cut(os.Getenv("CRASH_AT"), "@")
	passing := int64(1)
	if counted {
		var err error
		if passing, err = strconv.ParseInt(nth, 10, 64); err != nil || passing < 1 {
			panic(fmt.Sprintf("CRASH_AT: %q is no passing: expected a number of at least 1", nth))
		}
	}
	if at != "" && !slices.Contains(Points(), Point(at)) {
		panic(fmt.Sprintf("CRASH_AT: there is no point %q", at))
	}
	return Point(at), passing
})

var passed atomic.Int64

// At ends the process like kill -9 if it must die at this point: no deferred function
// runs, and nothing is flushed.
func At(p Point) {
	at, passing := armed()
	if p != at || passed.Add(1) != passing {
		return
	}
	fmt.Fprintf(os.Stderr, "{\"msg\":\"crash point\",\"point\":%q}\n", p)
	_ = syscall.Kill(os.Getpid(), syscall.SIGKILL) // cannot fail for the process itself
	select {}
}
