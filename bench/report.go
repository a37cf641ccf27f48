package main

import (
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"math"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/jedib0t/go-pretty/v6/table"
	"github.com/jedib0t/go-pretty/v6/text"
)

// report has all measurements; it is written as JSON.
type report struct {
	Machine   machine    `json:"machine"`
	Scenarios []*section `json:"scenarios"`
}

// machine describes the machine and the software of the measurement.
type machine struct {
	StartedAt   time.Time `json:"started_at"`
	System      string    `json:"system"`
	CPUs        int       `json:"cpus"`
	Go          string    `json:"go"`
	Redis       string    `json:"redis"`
	AppendFsync string    `json:"appendfsync"`
	Rounds      int       `json:"rounds"`
	// LoadBefore and LoadAfter are the system's load averages of one minute.
	LoadBefore float64 `json:"load_before"`
	LoadAfter  float64 `json:"load_after"`
}

// section has the measurements of one scenario.
type section struct {
	Scenario string `json:"scenario"`
	// About describes the scenario.
	About string  `json:"about"`
	Rows  []*row  `json:"rows"`
	Goals []*goal `json:"goals"`
	// Commands are the commands that Redis ran per action, by contender.
	Commands []commandCount `json:"commands,omitempty"`
}

// row has the measurements of one contender.
type row struct {
	Contender string    `json:"contender"`
	Metrics   []*metric `json:"metrics"`
}

// metric is one figure of a contender, round by round.
type metric struct {
	Name   string    `json:"name"`
	Unit   string    `json:"unit"`
	Rounds []float64 `json:"rounds"`
	Median float64   `json:"median"`
}

// goal is a figure and its bound. It states whether the run reached the bound, and is
// never an error.
type goal struct {
	Name   string    `json:"name"`
	Unit   string    `json:"unit,omitempty"`
	Rounds []float64 `json:"rounds"`
	Median float64   `json:"median"`
	// Reach is a bound such as "≥ 2.0"; Further is the next one. Both are empty for a figure
	// without a bound.
	Reach   string `json:"reach,omitempty"`
	Reached *bool  `json:"reached,omitempty"`
	Further string `json:"further,omitempty"`
}

// commandCount is how often Redis ran a command per action, sent by a client and called
// by a script.
type commandCount struct {
	Contender string  `json:"contender"`
	Command   string  `json:"command"`
	Sent      float64 `json:"sent"`
	Scripted  float64 `json:"scripted"`
}

// row returns the row of a contender, and adds it if it is missing.
func (s *section) row(contender string) *row {
	i := slices.IndexFunc(s.Rows, func(r *row) bool { return r.Contender == contender })
	if i < 0 {
		i = len(s.Rows)
		s.Rows = append(s.Rows, &row{Contender: contender, Metrics: []*metric{}})
	}
	return s.Rows[i]
}

// of returns the rounds of a contender's metric, or nil if it was not measured.
func (s *section) of(contender, name string) []float64 {
	for _, r := range s.Rows {
		for _, m := range r.Metrics {
			if r.Contender == contender && m.Name == name {
				return m.Rounds
			}
		}
	}
	return nil
}

// add adds the value of one round.
func (r *row) add(name, unit string, value float64) {
	i := slices.IndexFunc(r.Metrics, func(m *metric) bool { return m.Name == name })
	if i < 0 {
		i = len(r.Metrics)
		r.Metrics = append(r.Metrics, &metric{Name: name, Unit: unit})
	}
	m := r.Metrics[i]
	m.Rounds = append(m.Rounds, value)
	m.Median = median(m.Rounds)
}

// goal adds a figure with its bounds, such as "≥ 2" or "≤ 0.5". It adds nothing without
// rounds, which are missing if a contender was left out or used less than the kernel's
// unit.
func (s *section) goal(name, unit string, rounds []float64, reach, further string) {
	rounds = slices.DeleteFunc(slices.Clone(rounds), func(v float64) bool { return math.IsNaN(v) || math.IsInf(v, 0) })
	if len(rounds) == 0 {
		return
	}
	g := &goal{Name: name, Unit: unit, Rounds: rounds, Median: median(rounds), Reach: reach, Further: further}
	if reach != "" {
		reached := within(g.Median, reach)
		g.Reached = &reached
	}
	s.Goals = append(s.Goals, g)
}

// within reports whether a value satisfies a bound such as "≥ 2".
func within(value float64, bound string) bool {
	sign, number, _ := strings.Cut(bound, " ")
	limit, err := strconv.ParseFloat(number, 64)
	if err != nil {
		panic("bench: the bound " + bound + " is none") // all bounds are in this program
	}
	if sign == "≥" {
		return value >= limit
	}
	return value <= limit
}

// write writes the section as tables.
func (s *section) write(w io.Writer) error {
	var out strings.Builder
	fmt.Fprintf(&out, "\n%s: %s\n\n", s.Scenario, s.About)
	if len(s.Rows) > 0 {
		out.WriteString(s.rowTable() + "\n")
	}
	if len(s.Goals) > 0 {
		out.WriteString("\n" + s.goalTable() + "\n")
	}
	if len(s.Commands) > 0 {
		out.WriteString("\n" + s.commandTable() + "\n")
	}
	_, err := io.WriteString(w, out.String())
	return err
}

// rowTable has a line for each metric and a column for each contender.
func (s *section) rowTable() string {
	header := table.Row{"MEDIAN", "UNIT"}
	var lines []table.Row
	for column, r := range s.Rows {
		header = append(header, r.Contender)
		for _, m := range r.Metrics {
			i := slices.IndexFunc(lines, func(line table.Row) bool { return line[0] == m.Name })
			if i < 0 {
				i = len(lines)
				lines = append(lines, append(table.Row{m.Name, m.Unit}, slices.Repeat([]any{""}, len(s.Rows))...))
			}
			lines[i][2+column] = number(m.Median)
		}
	}
	return render(header, lines, 2)
}

func (s *section) goalTable() string {
	var lines []table.Row
	for _, g := range s.Goals {
		rounds := make([]string, len(g.Rounds))
		for i, value := range g.Rounds {
			rounds[i] = number(value)
		}
		reached := ""
		if g.Reached != nil {
			reached = map[bool]string{true: "yes", false: "no"}[*g.Reached]
		}
		if g.Further != "" && within(g.Median, g.Further) {
			reached += ", further"
		}
		lines = append(lines, table.Row{g.Name, g.Unit, strings.Join(rounds, " "), number(g.Median), g.Reach, g.Further, reached})
	}
	return render(table.Row{"FIGURE", "UNIT", "ROUNDS", "MEDIAN", "REACH", "FURTHER", "REACHED"}, lines, 3)
}

// commandTable has a line for each command and two columns for each contender.
func (s *section) commandTable() string {
	header := table.Row{"COMMAND"}
	var contenders []string
	var lines []table.Row
	for _, c := range s.Commands {
		if !slices.Contains(contenders, c.Contender) {
			contenders = append(contenders, c.Contender)
			header = append(header, c.Contender, "in scripts")
		}
	}
	for _, c := range s.Commands {
		i := slices.IndexFunc(lines, func(line table.Row) bool { return line[0] == c.Command })
		if i < 0 {
			i = len(lines)
			lines = append(lines, append(table.Row{c.Command}, slices.Repeat([]any{""}, 2*len(contenders))...))
		}
		column := 1 + 2*slices.Index(contenders, c.Contender)
		lines[i][column], lines[i][column+1] = number(c.Sent), number(c.Scripted)
	}
	slices.SortFunc(lines, func(a, b table.Row) int { return strings.Compare(fmt.Sprint(a[0]), fmt.Sprint(b[0])) })
	return render(header, lines, 1)
}

// render aligns the columns from first on to the right.
func render(header table.Row, lines []table.Row, first int) string {
	tw := table.NewWriter()
	style := table.StyleLight
	style.Options = table.OptionsNoBordersAndSeparators
	style.Format.Header = text.FormatDefault
	tw.SetStyle(style)
	tw.SuppressTrailingSpaces()
	tw.AppendHeader(header)
	tw.AppendRows(lines)
	var columns []table.ColumnConfig
	for i := first; i < len(header); i++ {
		columns = append(columns, table.ColumnConfig{Number: i + 1, Align: text.AlignRight, AlignHeader: text.AlignRight})
	}
	tw.SetColumnConfigs(columns)
	return tw.Render()
}

// number formats three significant digits, and whole numbers from 100 on.
func number(value float64) string {
	switch {
	case math.IsNaN(value) || math.IsInf(value, 0):
		return "-"
	case math.Abs(value) >= 100 || value == 0:
		return strconv.FormatFloat(value, 'f', 0, 64)
	}
	decimals := 2 - int(math.Floor(math.Log10(math.Abs(value))))
	return strconv.FormatFloat(value, 'f', min(decimals, 4), 64)
}

// writeJSON writes the report to a file.
func (r *report) writeJSON(file string) error {
	text, err := json.MarshalIndent(r, "", "  ")
	if err != nil {
		return fmt.Errorf("encode the report: %w", err)
	}
	if err := os.WriteFile(file, append(text, '\n'), 0o600); err != nil {
		return fmt.Errorf("write the report: %w", err)
	}
	return nil
}

// addCommands adds the commands that Redis ran, divided by per, and their sum.
func (s *section) addCommands(contender string, counted calls, per float64) {
	add := func(name string, sent, scripted int) {
		s.Commands = append(s.Commands, commandCount{contender, name, float64(sent) / per, float64(scripted) / per})
	}
	names := slices.Sorted(maps.Keys(counted.sent))
	for name := range counted.scripted {
		if _, both := counted.sent[name]; !both {
			names = append(names, name)
		}
	}
	for _, name := range names {
		add(name, counted.sent[name], counted.scripted[name])
	}
	add("(all)", total(counted.sent), total(counted.scripted))
}
