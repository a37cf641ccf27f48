package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err := run(ctx, os.Args[1:])
	stop()
	if err != nil && !errors.Is(err, flag.ErrHelp) {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, args []string) error {
	// This program is also the target and the peer, in separate processes.
	if len(args) > 0 {
		switch args[0] {
		case "target":
			return runTarget(ctx, args[1:])
		case "asynq":
			return runAsynq(ctx, args[1:])
		case "predict":
			return runPredict(args[1:], os.Stdout)
		}
	}
	b, err := parseFlags(args)
	if err != nil {
		return err
	}
	return b.measure(ctx)
}

// bench is the configuration of a measurement.
type bench struct {
	scenarios  []scenario
	contenders []string
	rounds     int
	fsync      string
	split      bool
	batch      int
	json       string
	sizes      sizes

	out    io.Writer
	dir    string // the directory of all files
	self   string // this program
	batchd string // the binary under test
}

func parseFlags(args []string) (*bench, error) {
	flags := flag.NewFlagSet("bench", flag.ContinueOnError)
	names := flags.String("scenario", "all", "comma-separated `names` of scenarios: "+strings.Join(scenarioNames(), ", "))
	contenders := flags.String("contender", "all", "comma-separated `names` of contenders, where a scenario compares them: "+strings.Join(contenderNames(), ", "))
	b := &bench{out: os.Stdout}
	flags.IntVar(&b.rounds, "rounds", 3, "how often each contender runs; the contenders take turns")
	flags.StringVar(&b.fsync, "appendfsync", "everysec", "when Redis writes its append-only file to disk: everysec, always or no")
	flags.BoolVar(&b.split, "split", false, "run the API and the worker in processes of their own in the scenarios throughput, latency and slow")
	flags.IntVar(&b.batch, "batch", 0, "the number of actions in a batch in the scenarios throughput and slow; 0 puts all of them into one batch")
	flags.StringVar(&b.json, "json", "", "also write all figures to this `file`, as JSON")
	flags.StringVar(&b.batchd, "batchd", "", "measure this `binary` instead of building one")
	short := flags.Bool("short", false, "small sizes and one round of throughput, latency and slow: shows that the measurement runs, and little more")
	if err := flags.Parse(args); err != nil {
		return nil, err
	}
	if flags.NArg() > 0 {
		return nil, fmt.Errorf("unexpected argument %q: there are only flags, see -help", flags.Arg(0))
	}
	b.sizes = fullSizes
	if *short {
		b.sizes, b.rounds = shortSizes, 1
		if *names == "all" {
			*names = "throughput,latency,slow"
		}
	}
	if b.rounds < 1 || b.batch < 0 {
		return nil, fmt.Errorf("there are %d rounds and %d actions of a batch: expected at least 1, and 0 or more", b.rounds, b.batch)
	}
	if !slices.Contains([]string{"everysec", "always", "no"}, b.fsync) {
		return nil, fmt.Errorf("unknown appendfsync %q: expected everysec, always or no", b.fsync)
	}
	var err error
	if b.contenders, err = choose("contender", *contenders, contenderNames()); err != nil {
		return nil, err
	}
	chosen, err := choose("scenario", *names, scenarioNames())
	for _, s := range scenarios {
		if slices.Contains(chosen, s.name) {
			b.scenarios = append(b.scenarios, s)
		}
	}
	return b, err
}

// choose reads a list of names, each of which must be known.
func choose(what, list string, known []string) ([]string, error) {
	if list == "all" {
		return known, nil
	}
	chosen := strings.Split(list, ",")
	for _, name := range chosen {
		if !slices.Contains(known, name) {
			return nil, fmt.Errorf("unknown %s %q: expected all, or of %s", what, name, strings.Join(known, ", "))
		}
	}
	return chosen, nil
}

// measure runs the scenarios. A scenario that fails has no figures; the others
// continue.
func (b *bench) measure(ctx context.Context) (err error) {
	if b.dir, err = os.MkdirTemp("", "batchd-bench-"); err != nil {
		return fmt.Errorf("make a directory: %w", err)
	}
	defer func() { err = errors.Join(err, os.RemoveAll(b.dir)) }()
	if b.self, err = os.Executable(); err != nil {
		return fmt.Errorf("find this program: %w", err)
	}
	if b.batchd == "" {
		if b.batchd, err = buildBatchd(ctx, b.dir); err != nil {
			return err
		}
	}
	all := report{Machine: b.describe(ctx)}
	m := &all.Machine
	fmt.Fprintf(b.out, "%s, %d CPUs, %s, %s, appendfsync %s, %d rounds, load %.2f\n", m.System, m.CPUs, m.Go, m.Redis, m.AppendFsync, m.Rounds, m.LoadBefore)
	var failed []error
	for _, s := range b.scenarios {
		section := &section{Scenario: s.name, About: s.about(b.sizes)}
		if err := s.run(ctx, b, section); err != nil {
			failed = append(failed, fmt.Errorf("%s: %w", s.name, err))
			if ctx.Err() != nil {
				break
			}
			fmt.Fprintf(b.out, "\n%s: no figures: %v\n", s.name, err)
			continue
		}
		all.Scenarios = append(all.Scenarios, section)
		if err := section.write(b.out); err != nil {
			return fmt.Errorf("write the figures: %w", err)
		}
	}
	m.LoadAfter = loadAverage()
	fmt.Fprintf(b.out, "\ntook %s, load %.2f\n", time.Since(m.StartedAt).Round(time.Second), m.LoadAfter)
	if b.json != "" {
		failed = append(failed, all.writeJSON(b.json))
	}
	return errors.Join(failed...)
}

func (b *bench) describe(ctx context.Context) machine {
	version, _ := exec.CommandContext(ctx, "redis-server", "--version").Output() // if redis-server is missing, every scenario reports that
	fields := strings.Fields(string(version))
	redis := "no redis-server"
	if len(fields) > 2 {
		redis = "Redis " + strings.TrimPrefix(fields[2], "v=")
	}
	return machine{
		StartedAt: time.Now(), System: runtime.GOOS + "/" + runtime.GOARCH, CPUs: runtime.NumCPU(), Go: runtime.Version(),
		Redis: redis, AppendFsync: b.fsync, Rounds: b.rounds, LoadBefore: loadAverage(),
	}
}

// loadAverage returns the load average of the last minute, or 0 if the system has none.
func loadAverage() float64 {
	text, err := os.ReadFile("/proc/loadavg")
	if err != nil {
		return 0
	}
	first, _, _ := strings.Cut(string(text), " ")
	load, err := strconv.ParseFloat(first, 64)
	if err != nil {
		return 0
	}
	return load
}
