package batches

import (
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/batchd/batchd/internal/batch"
	"github.com/batchd/batchd/queue/rdb"
	"github.com/batchd/batchd/queue/seal"
)

// actionVersion is the first byte of an encoded action.
const actionVersion = 2

// errAction says that stored bytes are no action.
var errAction = errors.New("malformed stored action")

// AppendAction encodes an action: a version, then strings with their length in
// front, in the order of the struct, the body last. An undo is encoded likewise,
// as one string.
func AppendAction(out []byte, a *batch.Action) []byte {
	str := func(s string) {
		out = binary.AppendUvarint(out, uint64(len(s)))
		out = append(out, s...)
	}
	out = append(out, actionVersion)
	str(a.ID)
	str(a.Method)
	str(a.Path)
	str(a.Query)
	if a.ForceQuery {
		out = append(out, 1)
	} else {
		out = append(out, 0)
	}
	out = binary.AppendUvarint(out, uint64(len(a.Headers)))
	for _, h := range a.Headers {
		str(h.Name)
		str(h.Value)
	}
	out = binary.AppendVarint(out, int64(a.Timeout))
	str(string(a.Retry))
	str(a.Group)
	if a.Undo != nil {
		str(string(AppendAction(nil, a.Undo)))
	} else {
		str("")
	}
	if a.Refusal != nil {
		out = binary.AppendUvarint(out, 1)
		str(string(a.Refusal.Code))
		str(a.Refusal.Message)
	} else {
		out = binary.AppendUvarint(out, 0)
	}
	if a.Body != nil {
		out = append(out, a.Body...)
		out = append(out, 1)
	} else {
		out = append(out, 0)
	}
	return out
}

// fields reads what appendAction writes.
type fields struct {
	data []byte
	bad  bool
}

func (f *fields) num() uint64 {
	v, n := binary.Uvarint(f.data)
	if n <= 0 {
		f.bad, f.data = true, nil
		return 0
	}
	f.data = f.data[n:]
	return v
}

func (f *fields) str() string {
	n := f.num()
	if n > uint64(len(f.data)) {
		f.bad, f.data = true, nil
		return ""
	}
	s := string(f.data[:n])
	f.data = f.data[n:]
	return s
}

// DecodeAction is the inverse of appendAction. The body aliases data.
func DecodeAction(data []byte) (batch.Action, error) {
	var a batch.Action
	if len(data) < 2 || data[0] != actionVersion {
		return a, errAction
	}
	f, hasBody := &fields{data: data[1 : len(data)-1]}, data[len(data)-1] == 1
	a.ID, a.Method, a.Path, a.Query = f.str(), f.str(), f.str(), f.str()
	a.ForceQuery = f.num() == 1
	if n := f.num(); n > 0 && n <= uint64(len(f.data)) {
		a.Headers = make([]batch.Field, n)
		for i := range a.Headers {
			a.Headers[i] = batch.Field{Name: f.str(), Value: f.str()}
		}
	} else if n > 0 {
		f.bad = true
	}
	timeout, n := binary.Varint(f.data)
	if n <= 0 || f.bad {
		return a, errAction
	}
	f.data = f.data[n:]
	a.Timeout = time.Duration(timeout)
	a.Retry = batch.RetryMode(f.str())
	a.Group = f.str()
	if undo := f.str(); undo != "" {
		decoded, err := DecodeAction([]byte(undo))
		if err != nil {
			return a, err
		}
		a.Undo = &decoded
	}
	if f.num() == 1 {
		a.Refusal = &batch.Failure{Code: batch.ErrorCode(f.str()), Message: f.str()}
	}
	if f.bad {
		return a, errAction
	}
	if hasBody {
		a.Body = f.data
		if a.Body == nil {
			a.Body = []byte{}
		}
	}
	return a, nil
}

// states maps the byte that the ledger keeps of an action to its outcome.
var states = map[byte]batch.Outcome{
	'p': batch.Pending, 'r': batch.Pending, 'w': batch.Pending, 'g': batch.Pending,
	'S': batch.Succeeded, 'F': batch.Failed, 'E': batch.Errored, 'U': batch.Unknown, OverdueState: batch.Unknown,
	'C': batch.Cancelled, 'X': batch.Expired, 'K': batch.Skipped,
}

// OverdueState is that of an action whose holder never said what came of it.
const OverdueState = 'O'

func StateOf(o batch.Outcome) (string, error) {
	for state, outcome := range states {
		if outcome == o && o.Final() && state != OverdueState {
			return string(state), nil
		}
	}
	return "", fmt.Errorf("a result cannot have the outcome %s", o)
}

// DecodeBatch decodes the meta hash.
func (s *Codec) DecodeBatch(id string, m map[string]string) (*batch.Batch, error) {
	b := &batch.Batch{
		ID: id, Owner: m["owner"], Target: m["target"], Lane: batch.Lane(m["lane"]),
		Status: batch.Status(m["status"]), Scope: m["scope"], Retention: time.Duration(rdb.Atoi(m["retention"])) * time.Millisecond,
		CreatedAt: rdb.FromMillis(m["created"]), StartedAt: rdb.FromMillis(m["started"]),
		EndedAt: rdb.FromMillis(m["ended"]), ExpiresAt: rdb.FromMillis(m["expires"]),
	}
	b.Counts.Total = int(rdb.Atoi(m["total"]))
	for _, o := range batch.Outcomes() {
		*b.Counts.Of(o) = int(rdb.Atoi(m[o.String()]))
	}
	if sealed := m["private"]; sealed != "" {
		opened, err := s.seals.Open(seal.Label{ID: id, Kind: "m"}, []byte(sealed))
		if err != nil {
			return nil, fmt.Errorf("read batch %s: %w", id, err)
		}
		if err := decodePrivate(opened, b); err != nil {
			return nil, fmt.Errorf("read batch %s: %w", id, err)
		}
	}
	return b, nil
}

func (s *Codec) SealGroup(id string, g *batch.Group) ([]byte, error) {
	encoded, err := json.Marshal(g)
	if err != nil {
		return nil, fmt.Errorf("encode group %d of batch %s: %w", g.Leader(), id, err)
	}
	return s.seals.Seal(seal.Label{ID: id, Kind: "g", Index: g.Leader()}, encoded), nil
}

func (s *Codec) OpenGroup(id string, leader int, sealed string) (*batch.Group, error) {
	opened, err := s.seals.Open(seal.Label{ID: id, Kind: "g", Index: leader}, []byte(sealed))
	if err != nil {
		return nil, fmt.Errorf("read group %d of batch %s: %w", leader, id, err)
	}
	g := &batch.Group{}
	if err := json.Unmarshal(opened, g); err != nil {
		return nil, fmt.Errorf("read group %d of batch %s: %w", leader, id, err)
	}
	return g, nil
}

func (s *Codec) openResult(id string, index int, sealed string) (*batch.Result, error) {
	opened, err := s.seals.Open(seal.Label{ID: id, Kind: "r", Index: index}, []byte(sealed))
	if err != nil {
		return nil, fmt.Errorf("read the result of action %d of batch %s: %w", index, id, err)
	}
	r := &batch.Result{}
	if err := r.UnmarshalJSON(opened); err != nil {
		return nil, fmt.Errorf("read the result of action %d of batch %s: %w", index, id, err)
	}
	return r, nil
}

func (s *Codec) OpenAction(id string, index int, sealed string) (batch.Action, error) {
	opened, err := s.seals.Open(seal.Label{ID: id, Kind: "a", Index: index}, []byte(sealed))
	if err != nil {
		return batch.Action{}, fmt.Errorf("read action %d of batch %s: %w", index, id, err)
	}
	a, err := DecodeAction(opened)
	if err != nil {
		return batch.Action{}, fmt.Errorf("read action %d of batch %s: %w", index, id, err)
	}
	return a, nil
}
