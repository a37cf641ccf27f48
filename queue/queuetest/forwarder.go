package queuetest

import (
	"github.com/batchd/batchd/internal/batch"
	"github.com/batchd/batchd/queue/tasks"
)

func (b *Bundle) DueEntries() (n int64) {
	b.T.Helper()
	for _, lane := range []batch.Lane{batch.Interactive, batch.Bulk} {
		for _, queue := range b.Tasks.QueuesOf(Crm(lane)) {
			n += Must(b.DB.Client.ZCard(b.Ctx, tasks.DueKey(queue)).Result())
		}
	}
	return n
}
