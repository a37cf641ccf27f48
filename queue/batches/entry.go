package batches

import (
	"strconv"
	"strings"
	"time"

	"github.com/batchd/batchd/queue/rdb"
)

// ParseEntry reads a ledger entry; see lua/entry.lua.
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

// String returns the ledger entry; see lua/entry.lua.
func (e *Entry) String() string {
	earlier := strconv.Itoa(e.Earlier)
	if e.Round != "" {
		earlier += "." + e.Round
	}
	return strings.Join([]string{e.Token, strconv.Itoa(e.Attempts), rdb.MillisOf(e.First), rdb.MillisOf(e.Started), earlier, e.Worker}, "|")
}

// Entry is what the ledger says of an action that was begun.
type Entry struct {
	Token, Worker     string
	Round             string // of its batch, as the meta hash has it: "" is the first
	Attempts, Earlier int
	First, Started    time.Time
}
