package main

import (
	"fmt"
	"runtime"
	"runtime/debug"

	"github.com/spf13/cobra"
)

// version is the release's version, set by the linker: -X main.version=v1.2.3.
var version string

// buildVersion returns the release's version, or else the version that the go command
// recorded.
func buildVersion() string {
	if version != "" {
		return version
	}
	if info, ok := debug.ReadBuildInfo(); ok && info.Main.Version != "" {
		return info.Main.Version
	}
	return "(devel)"
}

func newVersionCmd() *cobra.Command {
	return &cobra.Command{
		Use:   "version",
		Short: "Print the version",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			line := fmt.Sprintf("batchd %s, %s, %s/%s", buildVersion(), runtime.Version(), runtime.GOOS, runtime.GOARCH)
			if info, ok := debug.ReadBuildInfo(); ok {
				line += revision(info.Settings)
			}
			_, err := fmt.Fprintln(cmd.OutOrStdout(), line)
			return err
		},
	}
}

// revision returns the commit that the binary was built from, if it is known.
func revision(settings []debug.BuildSetting) string {
	known := map[string]string{}
	for _, s := range settings {
		known[s.Key] = s.Value
	}
	hash := known["vcs.revision"]
	if hash == "" {
		return ""
	}
	line := ", commit " + hash[:min(len(hash), 12)]
	if known["vcs.modified"] == "true" {
		line += " with changes"
	}
	if at := known["vcs.time"]; at != "" {
		line += " of " + at
	}
	return line
}
