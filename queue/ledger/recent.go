package ledger

import (
	"bytes"
	"encoding/binary"
	"hash/maphash"
	"time"
)

// recentChunk is the size, in bytes, of the blocks in which recentAttempts keeps its records.
const recentChunk = 256 << 10

// recentAttempts keeps the newest ended attempt of each action, and drops the oldest attempts first.
// A process can have a hundred thousand of them, so recentAttempts encodes them in blocks without
// pointers, which the garbage collector need not scan. Attempts that led a group are few, and keep
// their form.
type recentAttempts struct {
	seed   maphash.Seed
	base   time.Time           // times in records count from here, by the monotonic clock
	chunks [][]byte            // each has whole records; the first chunk's records before head are gone
	head   int                 // offset of the oldest record in the first chunk
	gone   uint64              // number of dropped chunks
	spare  []byte              // a dropped chunk to reuse
	newest map[uint64]uint64   // position of the newest record of an action, by the action's hash
	groups map[uint64]*attempt // attempts that ended groups, by position of their records
	bytes  int                 // size of the chunks, and of the arguments that ended groups
}

func newRecentAttempts() recentAttempts {
	return recentAttempts{seed: maphash.MakeSeed(), base: time.Now(), newest: make(map[uint64]uint64), groups: make(map[uint64]*attempt)}
}

func (r *recentAttempts) hash(key actionKey) uint64 {
	return maphash.String(r.seed, key.id) ^ uint64(key.index)*0x9e3779b97f4a7c15 //nolint:gosec // a hash may wrap
}

// add keeps an attempt that has ended.
func (r *recentAttempts) add(a *attempt) {
	size := recordHead + 80 + len(a.id) + len(a.entry.Token) + len(a.entry.Worker) + len(a.entry.Round) + len(a.state) + len(a.result)
	last := len(r.chunks) - 1
	if last < 0 || cap(r.chunks[last])-len(r.chunks[last]) < size {
		chunk := r.spare
		r.spare = nil
		if cap(chunk) < size {
			chunk = make([]byte, 0, max(size, recentChunk))
		}
		r.chunks = append(r.chunks, chunk[:0])
		r.bytes += cap(chunk)
		last++
	}
	at := r.position(last, len(r.chunks[last]))
	hash := r.hash(a.actionKey)
	r.chunks[last] = r.append(r.chunks[last], hash, a)
	r.newest[hash] = at
	if a.group != nil {
		r.groups[at] = a
		r.bytes += a.groupSize()
	}
}

// position numbers the records in the order in which they were added.
func (r *recentAttempts) position(chunk, offset int) uint64 {
	return (r.gone+uint64(chunk))<<32 | uint64(offset) //nolint:gosec // neither is negative, and a chunk is smaller than 4 GiB
}

// at returns the attempt at a position.
func (r *recentAttempts) at(position uint64) attempt {
	if whole := r.groups[position]; whole != nil {
		return *whole
	}
	chunk := r.chunks[position>>32-r.gone]
	return r.read(chunk[position&(1<<32-1):])
}

// find returns the newest ended attempt at an action, or nil.
func (r *recentAttempts) find(key actionKey) *attempt {
	position, ok := r.newest[r.hash(key)]
	if !ok {
		return nil
	}
	if a := r.at(position); a.actionKey == key {
		return &a
	}
	return nil
}

// forget forgets the attempts at an action, since a newer attempt has begun.
func (r *recentAttempts) forget(key actionKey) { delete(r.newest, r.hash(key)) }

// all returns the newest ended attempt of each action.
func (r *recentAttempts) all() []*attempt {
	all := make([]*attempt, 0, len(r.newest))
	for _, position := range r.newest {
		a := r.at(position)
		all = append(all, &a)
	}
	return all
}

// expire forgets the attempts that ended before the given time, and further the oldest ones while
// all attempts take more than most bytes.
func (r *recentAttempts) expire(before time.Time, most int) {
	limit := int64(before.Sub(r.base))
	for len(r.chunks) > 0 {
		chunk := r.chunks[0]
		for r.head < len(chunk) {
			record := chunk[r.head:]
			if r.bytes <= most && endedAt(record) >= limit {
				return
			}
			position, hash := r.position(0, r.head), hashOf(record)
			if r.newest[hash] == position {
				delete(r.newest, hash)
			}
			if whole := r.groups[position]; whole != nil {
				r.bytes -= whole.groupSize()
				delete(r.groups, position)
			}
			r.head += lengthOf(record)
		}
		if len(r.chunks) == 1 && cap(chunk) == recentChunk && r.bytes <= most {
			return // the next records go into this chunk
		}
		r.chunks[0] = nil
		r.chunks, r.head, r.gone = r.chunks[1:], 0, r.gone+1
		r.bytes -= cap(chunk)
		if cap(chunk) == recentChunk {
			r.spare = chunk
		}
	}
}

// recordHead is the size of a record's first fields: the time at which the attempt ended, in
// nanoseconds since base, the hash of its action, and the record's length.
const recordHead = 8 + 8 + 4

func endedAt(record []byte) int64 { return int64(binary.LittleEndian.Uint64(record)) } //nolint:gosec // append wrote it as an int64

func hashOf(record []byte) uint64 { return binary.LittleEndian.Uint64(record[8:]) }

func lengthOf(record []byte) int { return int(binary.LittleEndian.Uint32(record[16:])) }

func (r *recentAttempts) append(out []byte, hash uint64, a *attempt) []byte {
	start := len(out)
	out = binary.LittleEndian.AppendUint64(out, uint64(a.at.Sub(r.base))) //nolint:gosec // endedAt reads it back as an int64
	out = binary.LittleEndian.AppendUint64(out, hash)
	out = binary.LittleEndian.AppendUint32(out, 0) // the length follows below
	for _, n := range [...]int64{int64(a.index), a.entry.First.UnixMilli(), a.entry.Started.UnixMilli(), int64(a.entry.Attempts), int64(a.entry.Earlier)} {
		out = binary.AppendVarint(out, n)
	}
	for _, text := range [...]string{a.id, a.entry.Token, a.entry.Worker, a.entry.Round, a.state} {
		out = append(binary.AppendUvarint(out, uint64(len(text))), text...)
	}
	out = append(out, a.result...)
	binary.LittleEndian.PutUint32(out[start+16:], uint32(len(out)-start)) //nolint:gosec // a record is smaller than 4 GiB
	return out
}

func (r *recentAttempts) read(record []byte) attempt {
	a, result := r.readHead(record)
	if len(result) > 0 {
		a.result = bytes.Clone(result) // a later record may reuse the chunk
	}
	return a
}

// readHead decodes a record, and returns its sealed result separately, as a part of the chunk.
func (r *recentAttempts) readHead(record []byte) (a attempt, result []byte) {
	rest := record[recordHead:lengthOf(record)]
	number := func() int64 {
		n, size := binary.Varint(rest)
		rest = rest[size:]
		return n
	}
	text := func() string {
		length, size := binary.Uvarint(rest)
		end := size + int(length) //nolint:gosec // append wrote the length of a string
		t := string(rest[size:end])
		rest = rest[end:]
		return t
	}
	a.at = r.base.Add(time.Duration(endedAt(record)))
	a.index = int(number())
	a.entry.First, a.entry.Started = time.UnixMilli(number()), time.UnixMilli(number())
	a.entry.Attempts, a.entry.Earlier = int(number()), int(number())
	a.id, a.entry.Token, a.entry.Worker, a.entry.Round, a.state = text(), text(), text(), text(), text()
	return a, rest
}

// walk visits the attempts from a position on, in the order in which they ended, without their
// results. It stops at the first attempt for which visit returns false, and returns the position of
// that attempt, or the end position.
func (r *recentAttempts) walk(from uint64, visit func(a *attempt) bool) uint64 {
	for i, chunk := range r.chunks {
		offset := 0
		if i == 0 {
			offset = r.head
		}
		if r.position(i, len(chunk)) <= from {
			continue
		}
		if first := r.position(i, offset); from > first {
			offset = int(from & (1<<32 - 1))
		}
		for ; offset < len(chunk); offset += lengthOf(chunk[offset:]) {
			record, position := chunk[offset:], r.position(i, offset)
			if r.newest[hashOf(record)] != position {
				continue // a newer attempt at the action has begun
			}
			if a, _ := r.readHead(record); !visit(&a) {
				return position
			}
		}
		from = r.position(i, len(chunk))
	}
	return from
}
