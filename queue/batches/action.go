package batches

import (
	"encoding/binary"
	"errors"
	"time"

	"github.com/batchd/batchd/internal/batch"
)

// actionVersion is the first byte of an encoded action.
const actionVersion = 2

// errAction is the error of bytes that are not an action.
var errAction = errors.New("malformed stored action")

// AppendAction appends the encoding of an action to out: a version, then the fields in the order of
// the struct, each string after its length, and the body last. An undo is encoded likewise, as one
// string.
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

// fields reads the fields that AppendAction writes. After malformed bytes, bad is set.
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

// decodeAction is the inverse of AppendAction. The body aliases data.
func decodeAction(data []byte) (batch.Action, error) {
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
		decoded, err := decodeAction([]byte(undo))
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
