package batches

import (
	"math"
	"strconv"
	"strings"
	"time"

	"github.com/batchd/batchd/queue/rdb"
)

// Entry is the ledger entry of an action that a worker has begun. lua/entry.lua has its format.
type Entry struct {
	Token, Worker     string
	Round             string // round of the batch, as the meta hash has it: "" in the first
	Attempts, Earlier int    // attempts in all rounds, and in the rounds before Round
	First, Started    time.Time
}

// ParseEntry reads a ledger entry. It returns the zero Entry for a malformed one.
func ParseEntry(packed string) Entry {
	parts := strings.SplitN(packed, "|", 6)
	if len(parts) < 6 {
		return Entry{}
	}
	earlier, round, _ := strings.Cut(parts[4], ".")
	return Entry{
		Token: parts[0], Attempts: int(rdb.Atoi(parts[1])), First: rdb.FromMillis(parts[2]), Started: rdb.FromMillis(parts[3]),
		Earlier: int(rdb.Atoi(earlier)), Round: round, Worker: parts[5],
	}
}

// entryKind names ledger entries in errors. They are not sealed.
const entryKind = "l"

// isEntry reports whether a text has the form of a ledger entry, as [EntryLua] writes it.
func isEntry(packed string) bool {
	parts := strings.SplitN(packed, "|", 6)
	if len(parts) < 6 {
		return false
	}
	earlier, round, retried := strings.Cut(parts[4], ".")
	return within(parts[1], 0, math.MaxInt32) && within(parts[2], 0, maxMillis-1) && within(parts[3], 0, maxMillis-1) &&
		within(earlier, 0, math.MaxInt32) && (!retried || within(round, 2, maxRounds))
}

// String returns the ledger entry as Redis has it.
func (e *Entry) String() string {
	earlier := strconv.Itoa(e.Earlier)
	if e.Round != "" {
		earlier += "." + e.Round
	}
	return strings.Join([]string{e.Token, strconv.Itoa(e.Attempts), rdb.MillisOf(e.First), rdb.MillisOf(e.Started), earlier, e.Worker}, "|")
}
