package throttle

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/batchd/batchd/internal/batch"
)

// pacedWorld is a target with a rate, workers, and a Redis at some distance of each. All of it is
// virtual except the pacer, the clock, and lua/reserve.lua.
type pacedWorld struct {
	t       *testing.T
	rate    batch.Rate
	burst   int
	workers int
	way     time.Duration // between a worker and Redis, one way
	jitter  time.Duration // at most that much longer, each time
	busy    time.Duration // at most that much later a sleeper wakes
	lost    float64       // share of the replies to reservations that are lost
	ended   float64       // share of the actions that turn out to have ended
	stall   time.Duration // for which everything stops, once in each stallEvery
	slow    slowPhase     // during which exchanges take longer
	apart   bool          // send times are reserved after tasks were taken, as on a cluster
	ends    bool          // ended tasks are reported to Redis in exchanges that take no tasks

	rand   *rand.Rand
	gate   *luaGate
	mu     sync.Mutex
	queue  []*pacedTask
	more   chan struct{} // closed when tasks come back
	open   int           // tasks that have not ended
	over   chan struct{}
	writes []time.Time
	polls  int
	calls  int
	untold int // ended tasks that were not reported to Redis

	submitted time.Time // when the actions were, or zero
}

// slowPhase is a time in which exchanges take several times as long as before.
type slowPhase struct {
	start, end  time.Duration // from the submission on
	least, most float64       // each way takes so many times as long, at random
	onlyBegins  bool          // only exchanges that begin actions are slow
}

func (w *pacedWorld) chance(p float64) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.rand.Float64() < p
}

// stallEvery is how often everything stops in a world that stalls.
const stallEvery = 500 * time.Millisecond

// goOn returns when a stall has ended, if there is one now.
func (w *pacedWorld) goOn() {
	since := time.Duration(time.Now().UnixNano()) % stallEvery
	if since < w.stall {
		time.Sleep(w.stall - since)
	}
}

func (w *pacedWorld) upTo(d time.Duration) time.Duration {
	w.mu.Lock()
	defer w.mu.Unlock()
	return time.Duration(w.rand.Int64N(int64(d) + 1))
}

// travel is the way of a command, or of an answer.
func (w *pacedWorld) travel() { time.Sleep(w.slowed(false) + w.upTo(w.jitter)) }

// slowed returns how long a way takes now.
func (w *pacedWorld) slowed(begin bool) time.Duration {
	w.mu.Lock()
	defer w.mu.Unlock()
	since := time.Since(w.submitted)
	if w.submitted.IsZero() || since < w.slow.start || since >= w.slow.end || w.slow.onlyBegins && !begin {
		return w.way
	}
	return time.Duration(float64(w.way) * (w.slow.least + w.rand.Float64()*(w.slow.most-w.slow.least)))
}

// run has n actions sent, and returns how long that takes from when they were submitted.
func (w *pacedWorld) run(n int, seed uint64) time.Duration {
	w.rand = rand.New(rand.NewPCG(seed, 3))
	start := time.Now()
	w.gate = newLuaGate(w.t, func() int64 { // another clock, which is fast
		return 1_700_000_000_000_000 + int64(float64(time.Since(start).Microseconds())*(1+10e-6))
	})
	w.more, w.over, w.open = make(chan struct{}), make(chan struct{}), n
	quit, closed := make(chan struct{}), make(chan struct{})
	var wg sync.WaitGroup
	for i := range w.workers {
		changed := make(chan struct{}, 1)
		p := w.pacer(fmt.Sprint("w", i), &wg, changed)
		wg.Go(func() { p.Run(quit, closed) })
		wg.Go(func() { w.poll(p, changed, quit) })
	}
	time.Sleep(10 * time.Second) // the workers have started
	w.mu.Lock()
	w.submitted = time.Now()
	for i := range n {
		w.queue = append(w.queue, &pacedTask{id: fmt.Sprint(i)})
	}
	close(w.more)
	w.more = make(chan struct{})
	w.mu.Unlock()
	<-w.over
	close(quit)
	close(closed)
	wg.Wait()
	slices.SortFunc(w.writes, time.Time.Compare)
	return w.writes[len(w.writes)-1].Sub(w.submitted)
}

func (w *pacedWorld) pacer(name string, wg *sync.WaitGroup, changed chan struct{}) *Pacer[*pacedTask] {
	tokens := 0
	var p *Pacer[*pacedTask]
	p = NewPacer(PacerConfig[*pacedTask]{
		Rate: w.rate, Burst: w.burst, Most: 64,
		Held:     func() (time.Duration, <-chan struct{}) { return 0, nil },
		Changed:  func() { w.wake(changed) },
		Async:    wg.Go,
		GiveBack: w.giveBack,
		token: func() string {
			tokens++
			return fmt.Sprint(name, "-", tokens)
		},
		sleep: func(ctx context.Context, d time.Duration) error {
			if d > 0 && w.busy > 0 {
				d += w.upTo(w.busy)
			}
			err := sleep(ctx, d)
			w.goOn()
			return err
		},
		reserve: func(r *reservation) (*reserved, error) {
			w.travel()
			answer, err := w.reserve(r, 0)
			w.travel()
			return answer, err
		},
		Hand: func(k *pacedTask) bool {
			now := time.Now()
			c := p.NewClaim(now)
			wg.Go(func() { w.act(k, c) })
			return true
		},
	})
	return p
}

// reserve is what Redis does with a reservation.
func (w *pacedWorld) reserve(r *reservation, taken int) (*reserved, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.calls++
	answer, err := w.gate.reserve("t", w.rate, w.burst, r, taken)
	if w.rand.Float64() < w.lost {
		err = errors.New("lost")
	}
	return answer, err
}

func (w *pacedWorld) wake(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

// act is what a worker does with a task.
func (w *pacedWorld) act(k *pacedTask, c *Claim) {
	time.Sleep(w.slowed(true) + w.upTo(w.jitter))
	time.Sleep(w.slowed(true) + w.upTo(w.jitter))
	if w.chance(w.ended) {
		c.End()
		w.end()
		return
	}
	err := c.Approach(w.t.Context())
	if err == nil {
		err = c.Use(w.t.Context())
	}
	if err == nil {
		w.mu.Lock()
		w.writes = append(w.writes, time.Now())
		w.mu.Unlock()
	}
	c.Leave()
	w.travel()
	w.travel()
	c.End()
	if err != nil {
		w.travel()
		w.put([]*pacedTask{k}, true)
		w.travel()
		return
	}
	w.end()
}

func (w *pacedWorld) end() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.untold++
	if w.open--; w.open == 0 {
		close(w.over)
	}
}

func (w *pacedWorld) giveBack(tasks []*pacedTask) {
	if len(tasks) == 0 {
		return
	}
	w.travel()
	w.put(tasks, true)
	w.travel()
}

func (w *pacedWorld) put(tasks []*pacedTask, ahead bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if ahead {
		w.queue = append(slices.Clone(tasks), w.queue...)
	} else {
		w.queue = append(w.queue, tasks...)
	}
	close(w.more)
	w.more = make(chan struct{})
}

// pacedTask is a task of a pacedWorld.
type pacedTask struct{ id string }

// poll takes tasks as a consumer does.
func (w *pacedWorld) poll(p *Pacer[*pacedTask], changed, quit <-chan struct{}) {
	tick := time.NewTicker(max(reserveEvery, w.rate.Per/1000))
	defer tick.Stop()
	for {
		w.mu.Lock()
		waiting, more := len(w.queue), w.more
		ended := w.ends && w.untold > 0
		w.untold = 0
		w.mu.Unlock()
		if ended {
			w.travel()
			w.travel()
		}
		now := time.Now()
		wait := p.NotBefore().Sub(now)
		n := p.Fitting(now)
		if waiting > 0 && wait <= 0 && n > 0 {
			r, want := (*reservation)(nil), min(n, 1000)
			if !w.apart {
				r = p.reserveAfterPoll(want)
			}
			sent := time.Now()
			w.travel()
			w.mu.Lock()
			n = min(want, len(w.queue))
			tasks := slices.Clone(w.queue[:n])
			w.queue = w.queue[n:]
			w.polls++
			w.mu.Unlock()
			var answer *reserved
			var err error
			if r != nil {
				answer, err = w.reserve(r, n)
			}
			w.travel()
			received := time.Now()
			if n > 0 {
				p.Add(tasks)
			}
			if r != nil {
				p.pollEnded(r, n, answer, err, sent, received)
			}
			continue
		}
		if n == 0 || wait <= 0 {
			wait = 5 * time.Millisecond
		}
		if waiting == 0 {
			wait = time.Hour
		}
		timer := time.NewTimer(wait)
		select {
		case <-more:
		case <-changed:
		case <-timer.C:
		case <-tick.C:
			p.Probe(1)
		case <-quit:
			return
		}
		timer.Stop()
	}
}

// most returns the most writes in any half-open window of that length.
func most(writes []time.Time, window time.Duration) int {
	most := 0
	for i, j := 0, 0; j < len(writes); j++ {
		for writes[j].Sub(writes[i]) >= window {
			i++
		}
		most = max(most, j-i+1)
	}
	return most
}

// pacedRates are rates, and numbers of actions that make a test long enough.
var pacedRates = []struct {
	rate batch.Rate
	n    int
}{
	{batch.Rate{N: 5, Per: 24 * time.Hour}, 7},
	{batch.Rate{N: 1, Per: time.Minute}, 6},
	{batch.Rate{N: 1, Per: 5 * time.Second}, 12},
	{batch.Rate{N: 1, Per: time.Second}, 20},
	{batch.Rate{N: 10, Per: time.Second}, 120},
	{batch.Rate{N: 600, Per: time.Minute}, 120},
	{batch.Rate{N: 100, Per: time.Second}, 190},
	{batch.Rate{N: 1000, Per: time.Second}, 1500},
}

// The rate's window holds for what is written, by whichever worker, and no send time is
// wasted: actions take as long as the rate has them take, and the first one the way to Redis.
func TestNoWindowOfARateSeesMoreAndNoSendTimeIsLost(t *testing.T) {
	t.Parallel()
	for _, c := range pacedRates {
		for _, workers := range []int{1, 2} {
			for _, trip := range []time.Duration{0, 60 * time.Millisecond, 250 * time.Millisecond} {
				for _, apart := range []bool{false, true} {
					t.Run(fmt.Sprintf("%s/%d workers/%s/apart %v", c.rate, workers, trip, apart), func(t *testing.T) {
						t.Parallel()
						synctest.Test(t, func(t *testing.T) {
							w := &pacedWorld{t: t, rate: c.rate, burst: 1, workers: workers, way: trip / 2, apart: apart}
							took := w.run(c.n, 1)
							require.Len(t, w.writes, c.n)
							require.LessOrEqual(t, most(w.writes, c.rate.Per), c.rate.N)
							require.Equal(t, c.n, w.gate.given, "each send time was used")
							due := time.Duration(c.n) * c.rate.Per / time.Duration(c.rate.N)
							step := ((c.rate.Per + leastTolerance(c.rate)) / time.Duration(c.rate.N)).Truncate(time.Microsecond) + time.Microsecond
							paced := time.Duration(c.n-1)*step + trip/10 // the first send times are further apart
							require.LessOrEqual(t, w.writes[c.n-1].Sub(w.writes[0]), paced)
							if c.n < latenessShare {
								require.LessOrEqual(t, w.writes[c.n-1].Sub(w.writes[0]), due+trip)
							}
							// A task is taken, its send time reserved along with it, and its action begun ahead of that.
							first := 9*trip/4 + 20*time.Millisecond
							if apart {
								first += trip
							}
							require.LessOrEqual(t, took, paced+first)
							if c.n < latenessShare && step >= first {
								require.LessOrEqual(t, took, due+trip, "what the rate asks for, and one round trip")
							}
						})
					})
				}
			}
		}
	}
}

// As above, with jitter, lost replies, late sleepers and ended actions.
func TestTheWindowOfARateHoldsWhateverHappens(t *testing.T) {
	t.Parallel()
	for seed := range uint64(60) {
		t.Run(fmt.Sprint("seed ", seed), func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				r := rand.New(rand.NewPCG(seed, 14))
				c := pacedRates[r.IntN(len(pacedRates))]
				w := &pacedWorld{
					t: t, rate: c.rate, burst: 1, workers: 1 + r.IntN(2), way: time.Duration(r.Int64N(int64(125 * time.Millisecond))),
					jitter: time.Duration(r.Int64N(int64(25 * time.Millisecond))), busy: time.Duration(r.Int64N(int64(20 * time.Millisecond))),
					lost: r.Float64() * 0.05, ended: r.Float64() * 0.5, apart: seed%2 == 0,
				}
				if r.IntN(2) == 0 {
					w.burst = 1 + r.IntN(c.rate.N)
				}
				took := w.run(c.n, seed)
				require.LessOrEqual(t, most(w.writes, c.rate.Per), c.rate.N+w.burst-1, "%s", w.setup())
				// What is lost of a fast rate is a second or two, until the tolerance fits, and of
				// a slow one nothing. An action that has ended takes its time, too, but no send time.
				step := (c.rate.Per + 2*mostTolerance(c.rate)) / time.Duration(c.rate.N)
				trip := 2 * (w.way + w.jitter)
				due := time.Duration(len(w.writes))*step + 4*time.Second + 10*trip + time.Duration(c.n-len(w.writes))*4*trip
				require.LessOrEqual(t, took, due, "%s", w.setup())
			})
		})
	}
}

// A machine that stops now and then loses the send times of those moments, and few others: a request
// that misses its send time does not wait behind all reserved ones, and its task is not put back.
func TestAStallLosesTheSendTimesOfThatMoment(t *testing.T) {
	t.Parallel()
	for _, workers := range []int{1, 2} {
		for _, trip := range []time.Duration{0, 60 * time.Millisecond, 250 * time.Millisecond} {
			t.Run(fmt.Sprintf("%d workers/%s", workers, trip), func(t *testing.T) {
				t.Parallel()
				synctest.Test(t, func(t *testing.T) {
					w := &pacedWorld{t: t, rate: batch.Rate{N: 200, Per: time.Second}, burst: 1, workers: workers, way: trip / 2, stall: 40 * time.Millisecond, ends: true}
					const n = 1000
					took := w.run(n, 1)
					require.LessOrEqual(t, most(w.writes, w.rate.Per), w.rate.N)
					due := n * w.rate.Per / time.Duration(w.rate.N)
					lost := time.Duration(float64(due) * w.stall.Seconds() / stallEvery.Seconds())
					submitted := w.writes[n-1].Add(-took)
					require.LessOrEqual(t, w.writes[n-20].Sub(submitted), due+2*lost+4*trip, "%d reservations", w.calls)
					// A miss of one of the last has no other to take over, and may have it taken once more.
					require.LessOrEqual(t, took, due+2*lost+12*trip)
				})
			})
		}
	}
}

func (w *pacedWorld) setup() string {
	return fmt.Sprintf("apart %v rate %s burst %d workers %d way %s jitter %s busy %s lost %.2f ended %.2f", w.apart, w.rate, w.burst, w.workers, w.way, w.jitter, w.busy, w.lost, w.ended)
}

// The unused send times, the free ones, and those of a reservation under way all go back to Redis.
func TestAPacerThatEndsReturnsEverySendTime(t *testing.T) {
	t.Parallel()
	for name, repeated := range map[string]bool{"a reservation is to be repeated": true, "one is under way": false} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				var calls []*reservation
				answers := make(chan struct{})
				p := NewPacer(PacerConfig[*pacedTask]{
					Rate: batch.Rate{N: 10, Per: time.Second}, Most: 8, Changed: func() {}, token: func() string { return "last" },
					reserve: func(r *reservation) (*reserved, error) {
						if r.token == "earlier" && !repeated {
							<-answers
						}
						calls = append(calls, r)
						if r.token == "earlier" {
							return &reserved{now: 1, next: 500, runs: []sendRun{{Time: 300, Step: 100, N: 2}}}, nil
						}
						return &reserved{}, nil
					},
				})
				p.times.unused, p.times.free = []sendTime{{redis: 100}}, []sendTime{{redis: 200}}
				earlier := &reservation{token: "earlier", most: 2, since: time.Now()}
				if repeated {
					p.reservations.unanswered = append(p.reservations.unanswered, earlier)
				} else {
					p.reservations.underWay, p.reservations.expected = 1, 2
					go p.call(earlier)
				}
				ended := make(chan struct{})
				go func() {
					p.returnAll()
					close(ended)
				}()
				synctest.Wait()
				close(answers)
				<-ended
				require.Len(t, calls, 2)
				var returned []int64
				for _, at := range calls[1].returned {
					returned = append(returned, at.redis)
				}
				require.Equal(t, []int64{400, 300, 200, 100}, returned)
			})
		})
	}
}
