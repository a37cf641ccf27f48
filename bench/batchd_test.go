package main

import (
	"bufio"
	"encoding/json"
	"io"
	"testing"
	"testing/iotest"

	"github.com/stretchr/testify/require"
)

func TestResultsAreDecodedInTheirOrder(t *testing.T) {
	t.Parallel()
	const answer = `{"id":"1","index":1,"outcome":"succeeded","status":200,"body":{"a": 1},"attempts":1}
{"id":"0","index":0,"outcome":"errored","error":{"code":"timeout","message":"too slow"},"attempts":1}
{"id":"2","index":2,"outcome":"unknown","attempts":1}
`
	results, err := decodeResults([]byte(answer), 100)
	require.NoError(t, err)
	require.Equal(t, []result{
		{index: 101, status: 200, body: []byte(`{"a": 1}`)},
		{index: 100, err: "timeout: too slow"},
		{index: 102, err: "its outcome is unknown"},
	}, results)
	_, err = decodeResults([]byte(answer+`{"id":`), 0)
	require.ErrorContains(t, err, "decode result 3")
}

func TestABatchThatHasNotEndedIsNoResult(t *testing.T) {
	t.Parallel()
	results, err := decodeInline([]byte(`{"id":"x","status":"completed","results":[{"index":0,"outcome":"succeeded","status":200,"body":1}]}`))
	require.NoError(t, err)
	require.Equal(t, []result{{index: 0, status: 200, body: []byte("1")}}, results)
	_, err = decodeInline([]byte(`{"id":"x","status":"running"}`))
	require.ErrorContains(t, err, "batch x is still running")
}

func TestLinesAreTheActions(t *testing.T) {
	t.Parallel()
	bodies := makeBodies("lines", 100, smallBody)
	for _, r := range []io.Reader{&lines{bodies: bodies}, iotest.OneByteReader(&lines{bodies: bodies})} {
		scanner := bufio.NewScanner(r)
		n := 0
		for ; scanner.Scan(); n++ {
			var line struct {
				Method, Path string
				Body         json.RawMessage
			}
			require.NoError(t, json.Unmarshal(scanner.Bytes(), &line))
			require.Equal(t, "POST "+path, line.Method+" "+line.Path)
			require.Equal(t, string(bodies[n]), string(line.Body))
		}
		require.NoError(t, scanner.Err())
		require.Equal(t, 100, n)
	}
}

func TestAMarkIsReachedOnce(t *testing.T) {
	t.Parallel()
	var at []int
	b := &answerBuffer{}
	b.mark = mark{at: 10, reached: func() { at = append(at, b.text.Len()) }}
	for range 5 {
		_, err := b.Write([]byte("1234"))
		require.NoError(t, err)
	}
	require.Equal(t, []int{8}, at, "with the third write")
	require.Equal(t, 20, b.text.Len())
}
