package consumer

import (
	"strings"
	"testing"

	"github.com/google/uuid"
	"github.com/stretchr/testify/require"

	"github.com/batchd/batchd/internal/redistest"
	"github.com/batchd/batchd/queue/batcher"
	"github.com/batchd/batchd/queue/ledger"
)

func TestAStepThatFindsNoConnectionHasFailed(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t)
	_, err := server.Command("CONFIG", "SET", "requirepass", "right")
	require.NoError(t, err)
	b := open(t, strings.Replace(server.URL(), "://", "://:wrong@", 1))
	target := newConsumer(b.consumers, ServerConfig{Targets: []Target{{Name: "crm", Slots: 2}}}).targets[0]
	target.queues[0].end("done")
	target.poll(true)
	require.Equal(t, []string{"done"}, target.queues[0].done, "its end is reported again")
	require.True(t, target.queues[0].maybeNonEmpty, "there may still be tasks")
	err = b.Batcher.Do(&batcher.Call{Step: ledger.Steps.Begin, ID: uuid.Must(uuid.NewV7()).String(), SharedArgs: []any{"w1", ""}, Args: []any{"token"}})
	require.ErrorContains(t, err, "WRONGPASS", "it says what is wrong")
}
