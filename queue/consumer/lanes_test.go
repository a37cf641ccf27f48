package consumer

// newLane returns a lane without a consumer.
func (b *bundle) newLane(queue string) *taskQueue {
	b.T.Helper()
	l := &targetConsumer{Target: Target{Name: "crm"}, t: &consumer{s: b.consumers, queues: make(map[string]*taskQueue)}}
	l.addQueue(queue, false)
	return l.queues[0]
}
