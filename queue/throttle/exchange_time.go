package throttle

import (
	"slices"
	"time"
)

const (
	// latestExchanges is the number of durations in an estimate, each the longest of
	// those that ended within exchangeMoment: many actions begin in one exchange.
	latestExchanges = 16
	exchangeMoment  = 20 * time.Millisecond
	// exchangeAge is the age at which a duration no longer counts.
	exchangeAge = clockAge
)

// exchangeTime estimates how long an exchange with Redis takes, from the time when a task is handed
// over, or a reservation is made, until the reply is read. The estimate is the longest of the latest
// durations except an eighth of them: so exchanges that had to open a connection do not count, and
// a machine or a network that becomes slow does after a few exchanges.
type exchangeTime struct {
	latest []exchangeSample
	usual  time.Duration // the estimate; zero until there is one
}

type exchangeSample struct {
	at   time.Time
	took time.Duration
}

// add takes in how long an exchange took that ended now.
func (e *exchangeTime) add(took time.Duration) {
	now := time.Now()
	if n := len(e.latest); n > 0 && now.Sub(e.latest[n-1].at) < exchangeMoment {
		if took <= e.latest[n-1].took {
			return // nothing changes
		}
		e.latest[n-1].took = took
	} else {
		e.latest = append(e.latest, exchangeSample{now, took})
	}
	old := max(len(e.latest)-latestExchanges, 0)
	for now.Sub(e.latest[old].at) > exchangeAge {
		old++ // never the one that was just added
	}
	e.latest = slices.Delete(e.latest, 0, old)
	var all [latestExchanges]time.Duration
	durations := all[:len(e.latest)]
	for i, s := range e.latest {
		durations[i] = s.took
	}
	slices.Sort(durations)
	n := len(durations)
	e.usual = durations[n-1-(n+latestExchanges/2-2)/(latestExchanges/2)]
}
