package batches

import (
	"reflect"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/batchd/batchd/internal/batch"
	"github.com/batchd/batchd/queue/seal"
)

func FuzzEntry(f *testing.F) {
	for _, seed := range []string{"token|3|1|2|1.2|worker", "t|0|||0|w|x", "|||||", "a|b|c|d|e|f", "t|1|1|1|1.|w", "t|-1|1|1|1.x.y|w"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, packed string) {
		e := ParseEntry(packed)
		require.Equal(t, e, ParseEntry(e.String()))
	})
}

// FuzzStoredAction decodes any bytes as an action. What can be read is written in the same way.
func FuzzStoredAction(f *testing.F) {
	for _, a := range []batch.Action{
		{Method: "GET", Path: "/"},
		{ID: "a", Method: "POST", Path: "/x", Query: "a=b", ForceQuery: true, Headers: []batch.Field{{Name: "A", Value: "b"}}, Body: []byte{}, Timeout: time.Second, Retry: "safe"},
		{Method: "PUT", Path: "/", Group: "g", Body: []byte("x"), Undo: &batch.Action{Method: "DELETE", Path: "/"}, Refusal: &batch.Failure{Code: batch.CodeBlocked, Message: "m"}},
	} {
		f.Add(AppendAction(nil, &a))
	}
	f.Add([]byte{2, 0})
	f.Add([]byte{2, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 1, 0})
	f.Fuzz(func(t *testing.T, data []byte) {
		a, err := decodeAction(data)
		if err != nil {
			require.ErrorIs(t, err, errAction)
			return
		}
		again, err := decodeAction(AppendAction(nil, &a))
		require.NoError(t, err)
		if len(a.Headers) == 0 {
			a.Headers, again.Headers = nil, nil
		}
		require.True(t, reflect.DeepEqual(a, again), "%+v %+v", a, again)
	})
}

// FuzzStoredValues reads any bytes as the values of a batch: each is read, or is an error that names
// the batch.
func FuzzStoredValues(f *testing.F) {
	f.Add([]byte(`{"webhook_url":"u"}`), "3", "running")
	f.Add([]byte(`{"id":"","index":0,"outcome":"failed","attempts":1}`), "-1", "")
	f.Add([]byte(`{"step":1,"members":[0]}`), "x", "completed")
	f.Add([]byte("null"), "99999999999999999999", "\xff")
	open, err := seal.New(seal.Config{})
	require.NoError(f, err)
	c := &Codec{seals: open}
	d := &Deliveries{batches: &Batches{Codec: c}}
	f.Fuzz(func(t *testing.T, value []byte, number, status string) {
		const id = "01a22a66-ad15-7f20-b1d1-1234567890ab"
		named := func(err error) {
			var damaged *batch.DamagedError
			if err != nil {
				require.ErrorAs(t, err, &damaged)
				require.Equal(t, id, damaged.ID)
			}
		}
		stored := append([]byte{0}, value...)
		m := map[string]string{"owner": "me", "total": number, "status": status, "created": number, "retention": number, "private": string(stored), "round": number, "succeeded": number, "delivery": status, "next": number}
		_, err := c.DecodeBatch(id, m)
		named(err)
		for _, kind := range []string{"r", lastKind} {
			_, err := c.decodeResult(id, kind, 7, string(stored))
			named(err)
		}
		_, err = c.OpenAction(id, 7, string(stored))
		named(err)
		_, err = c.OpenGroup(id, 7, string(stored))
		named(err)
		if len(number) > 3 {
			return // there is an entry for each round
		}
		_, err = d.decodeLog(id, m, []string{string(stored), string(value)})
		named(err)
	})
}
