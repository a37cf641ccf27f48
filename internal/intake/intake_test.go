package intake_test

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"

	"github.com/go-json-experiment/json/jsontext"
	"github.com/stretchr/testify/require"

	"github.com/batchd/batchd/internal/batch"
	"github.com/batchd/batchd/internal/intake"
)

func TestADocumentIsReadToItsEnd(t *testing.T) {
	t.Parallel()
	for _, row := range []struct {
		document, pointer, says string
	}{
		{`{"a":"x"}`, "", ""},
		{` {"a":"x"} ` + "\n", "", ""},
		{``, "", "the body is empty"},
		{`  `, "", "the body is empty"},
		{`{"a":"x"} x`, "", "not valid JSON at byte 10"},
		{`{"a":"x"}{}`, "", "there is more after the end"},
		{`{"a":`, "/a", "it ends too early"},
		{"{\"a\":\"\xff\"}", "/a", "invalid UTF-8"},
		{`{"a":7}`, "/a", "expected a string, found a number"},
		{`{"a":"x","a":"y"}`, "/a", `the field "a" appears twice`},
		{`{"A":"x"}`, "/A", `unknown field "A": it is spelt "a"`},
		{`{"b":"x"}`, "/b", `unknown field "b": expected one of a`},
		{`[]`, "", "expected an object, found a list"},
		{`{"a":"bad"}`, "/a", "no good"},
	} {
		r := intake.NewReader()
		whole, err := r.Document([]byte(row.document), func(dec *jsontext.Decoder) error {
			_, err := r.Object(dec, []string{"a"}, func(string) error {
				return r.Text(dec, func(s string) error {
					if s == "bad" {
						return errors.New("no good")
					}
					return nil
				})
			})
			return err
		})
		require.NoError(t, err)
		if row.says == "" {
			require.True(t, whole)
			require.True(t, r.Clean(), "%q: %v", row.document, r.Invalid)
			continue
		}
		require.NotEmpty(t, r.Invalid.Faults, row.document)
		require.Contains(t, r.Invalid.Faults[0].Detail, row.says)
		require.Equal(t, row.pointer, r.Invalid.Faults[0].Pointer, row.document)
		require.Equal(t, -1, r.Invalid.Faults[0].Index)
	}
}

func TestAnErrorOfTheCallerIsItsOwn(t *testing.T) {
	t.Parallel()
	r := intake.NewReader()
	stop := errors.New("stop")
	whole, err := r.Document([]byte(`{}`), func(*jsontext.Decoder) error { return stop })
	require.ErrorIs(t, err, stop)
	require.False(t, whole)
	require.True(t, r.Clean())
}

func TestFaultsBeyondTheMostAreCounted(t *testing.T) {
	t.Parallel()
	r := intake.NewReader()
	for range intake.MaxFaults + 3 {
		r.Fault("/"+strings.Repeat("x", 200)+"/"+strings.Repeat("y", 600), "no")
	}
	require.Len(t, r.Invalid.Faults, intake.MaxFaults)
	require.Equal(t, 3, r.Invalid.More)
	require.Equal(t, "/"+strings.Repeat("x", 200), r.Invalid.Faults[0].Pointer, "a pointer stays short")
}

func TestFieldsHaveThePlacesOfTheirDocument(t *testing.T) {
	t.Parallel()
	r := intake.NewReader()
	r.Index = 2
	r.Fault("/items/2/uri", "expected a string, found a number")
	r.Check(&batch.Action{Query: "a b"}, "/items/2", 0, func(pointer string) string {
		return strings.NewReplacer("/path", "/uri", "/query", "/uri?").Replace(pointer)
	})
	var pointers []string
	for _, f := range r.Invalid.Faults {
		require.Equal(t, 2, f.Index)
		pointers = append(pointers, f.Pointer)
	}
	require.Equal(t, []string{"/items/2/uri", "/items/2/method", "/items/2/uri?"}, pointers, "what could not be read is not also missing")
}

func TestAQueryInAPathIsEncodedOnce(t *testing.T) {
	t.Parallel()
	for _, row := range []struct{ in, path, query string }{
		{"/a", "/a", ""},
		{"/a?", "/a", ""},
		{"/a?x=%zz&%e9=%2f%2F&%", "/a", "x=%zz&%e9=%2f%2F&%"},
		{"/a b?c=d e&f=%20", "/a b", "c=d%20e&f=%20"},
		{"/a?x=100%&y=%2", "/a", "x=100%&y=%2"},
		{"/a?$filter=(b eq 'ü')?", "/a", "$filter=(b%20eq%20'%C3%BC')?"},
		{`/a?"<>\^` + "`{|}", "/a", "%22%3C%3E%5C%5E%60%7B%7C%7D"},
	} {
		var a batch.Action
		intake.SetURL(&a, row.in)
		require.Equal(t, row.path, a.Path)
		require.Equal(t, row.query, a.Query)
		require.Equal(t, row.in == "/a?", a.ForceQuery, row.in)
	}
	require.Equal(t, "a=1&b=2", intake.JoinQuery("a=1", "b=2"))
	require.Equal(t, "a=1", intake.JoinQuery("a=1", ""))
	require.Equal(t, "b=2", intake.JoinQuery("", "b=2"))
	require.Equal(t, "a%20b%26%3D%2B", intake.EscapeQueryPart("a b&=+"))
}

// The reader stores ids in a form in which implied ids cost nothing. This test compares
// it with storing all of them.
func TestNoTwoActionsHaveTheSameID(t *testing.T) {
	t.Parallel()
	given := []string{"", "", "", "0", "1", "2", "3", "5", "7", "03", "-1", "a", "b", "9", "12", "99999999999999999999"}
	for seed := range uint64(300) {
		lots := rand.New(rand.NewPCG(seed, 0))
		r, naive := intake.NewReader(), make(map[string]int)
		for i := range 16 {
			a := batch.Action{ID: given[lots.IntN(len(given))], Method: "GET", Path: "/"}
			r.Index, r.Invalid = i, batch.InvalidError{}
			if lots.IntN(5) == 0 {
				continue // it could not be read
			}
			r.Check(&a, "", 0, nil)
			id := batch.ActionID(a.ID, i)
			first, taken := naive[id]
			if !taken {
				naive[id] = i
				require.Empty(t, r.Invalid.Faults, "seed %d, action %d, id %q", seed, i, id)
				continue
			}
			require.Len(t, r.Invalid.Faults, 1, "seed %d, action %d, id %q", seed, i, id)
			require.Contains(t, r.Invalid.Faults[0].Detail, fmt.Sprintf("the actions %d and %d have the same id %q", first, i, id))
		}
	}
}

// Whoever sends an object or a list with very many members gets one fault, and the reader
// keeps only the first ones.
func TestOnlySoManyMembersAreKept(t *testing.T) {
	t.Parallel()
	var object, list strings.Builder
	for i := range 50_000 {
		fmt.Fprintf(&object, `,"n%d":""`, i)
		list.WriteString(`,""`)
	}
	for name, text := range map[string]string{
		"headers":            "{" + object.String()[1:] + "}",
		"values of a header": `{"A":[` + list.String()[1:] + `]}`,
	} {
		r, kept := intake.NewReader(), 0
		whole, err := r.Document([]byte(text), func(dec *jsontext.Decoder) error {
			return r.Headers(dec, func(batch.Field) { kept++ })
		})
		require.NoError(t, err)
		require.True(t, whole, "the rest is read all the same")
		require.Equal(t, batch.MaxHeaderCount, kept, name)
		require.Len(t, r.Invalid.Faults, 2)
		require.Contains(t, r.Invalid.Faults[0].Detail, "more than 10000")
		require.Contains(t, r.Invalid.Faults[1].Detail, "at most 100 are allowed")
	}
	r := intake.NewReader()
	_, err := r.Document([]byte("{"+object.String()[1:]+"}"), func(dec *jsontext.Decoder) error {
		_, err := r.Object(dec, []string{"a"}, func(string) error { return nil })
		return err
	})
	require.NoError(t, err)
	require.Equal(t, 10_001, len(r.Invalid.Faults)+r.Invalid.More, "unknown names count, too")
}
