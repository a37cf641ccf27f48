package main

import (
	"bufio"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestInfoIsRead(t *testing.T) {
	t.Parallel()
	numbers := make(map[string]float64)
	parseInfo("# Stats\r\ntotal_commands_processed:12\r\nused_memory_peak:1024\r\nredis_version:7.0.15\r\n", numbers)
	parseInfo("# Commandstats\r\ncmdstat_get:calls=7,usec=30,usec_per_call=4.29\r\n", numbers)
	require.Equal(t, map[string]float64{"total_commands_processed": 12, "used_memory_peak": 1024, "cmdstat_get": 7}, numbers)
}

func TestCommandsOfScriptsAreToldApart(t *testing.T) {
	t.Parallel()
	const address = "+1700000000.1 [0 127.0.0.1:40000] "
	text := address + `"GET" "key"` + "\r\n" +
		address + `"evalsha" "abc" "1" "[0 lua] \"get\""` + "\r\n" +
		`+1700000000.1 [0 lua] "get" "key"` + "\r\n" +
		`+1700000000.1 [0 lua] "HSET" "key" "` + strings.Repeat("x", 200_000) + `"` + "\r\n" +
		address + `"set" "key" "` + strings.Repeat("x", 200_000) + `"` + "\r\n" +
		address + `"ECHO" "the end"` + "\r\n" +
		address + `"get" "key"` + "\r\n"
	counted := calls{sent: make(map[string]int), scripted: make(map[string]int)}
	require.NoError(t, countCalls(bufio.NewReader(strings.NewReader(text)), "the end", counted))
	require.Equal(t, map[string]int{"get": 1, "evalsha": 1, "set": 1}, counted.sent)
	require.Equal(t, map[string]int{"get": 1, "hset": 1}, counted.scripted)

	err := countCalls(bufio.NewReader(strings.NewReader(address+`"GET" "key"`+"\r\n")), "the end", counted)
	require.Error(t, err, "the connection ended before the count did")
}
