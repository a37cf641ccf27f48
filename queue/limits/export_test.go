package limits

import "context"

const WindowSlices = windowSlices

func (l *Limits) InFlight(ctx context.Context, key string, most int) ([]any, error) {
	return l.inFlight(ctx, key, most)
}
