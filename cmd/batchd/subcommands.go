package main

import (
	"fmt"
	"slices"

	"github.com/spf13/cobra"

	"github.com/batchd/batchd/internal/setting"
)

// suggestWithin is the most letters in which a command may differ from a mistyped one.
const suggestWithin = 2

// strict makes unknown commands errors, also below a command that only has others: cobra shows help for them, and
// ends with status 0.
func strict(root *cobra.Command) {
	root.InitDefaultHelpCmd()
	root.InitDefaultCompletionCmd()
	root.SetFlagErrorFunc(func(cmd *cobra.Command, err error) error {
		if cmd.HasSubCommands() && cmd.Flags().NArg() > 0 { // the flag is one of the command that was meant
			return unknownCommand(cmd, cmd.Flags().Arg(0))
		}
		return err
	})
	var walk func(cmd *cobra.Command)
	walk = func(cmd *cobra.Command) {
		if cmd.HasSubCommands() {
			cmd.Args = noUnknownCommand
			cmd.RunE = func(cmd *cobra.Command, _ []string) error { return cmd.Help() }
			cmd.DisableFlagsInUseLine = true
		}
		for _, sub := range cmd.Commands() {
			walk(sub)
		}
	}
	walk(root)
	if help := subcommand(root, "help"); help != nil {
		help.Run, help.RunE = nil, showHelp
	}
}

// noUnknownCommand refuses arguments of a command that has commands: cobra knew none of that name.
func noUnknownCommand(cmd *cobra.Command, args []string) error {
	if len(args) == 0 {
		return nil
	}
	return unknownCommand(cmd, args[0])
}

// showHelp shows the help of the command that the arguments name.
func showHelp(cmd *cobra.Command, args []string) error {
	about := cmd.Root()
	for _, name := range args {
		if !about.HasSubCommands() {
			break
		}
		next := subcommand(about, name)
		if next == nil {
			return unknownCommand(about, name)
		}
		about = next
	}
	about.InitDefaultHelpFlag()
	return about.Help()
}

// subcommand returns the command with a name or alias, or nil.
func subcommand(cmd *cobra.Command, name string) *cobra.Command {
	i := slices.IndexFunc(cmd.Commands(), func(c *cobra.Command) bool { return c.Name() == name || c.HasAlias(name) })
	if i < 0 {
		return nil
	}
	return cmd.Commands()[i]
}

// unknownCommand returns the error for an unknown command below another, with the commands that may be meant.
func unknownCommand(cmd *cobra.Command, name string) error {
	cmd.SuggestionsMinimumDistance = suggestWithin
	hint := cmd.Root().Name() + " --help lists the commands"
	if near := cmd.SuggestionsFor(name); len(near) > 0 {
		hint = "did you mean " + setting.OneOf(near) + "?"
	} else if cmd.HasParent() {
		var all []string
		for _, sub := range cmd.Commands() {
			if sub.IsAvailableCommand() {
				all = append(all, sub.Name())
			}
		}
		hint = "expected " + setting.OneOf(all)
	}
	return fmt.Errorf("unknown command %q for %q: %s", setting.Clip(name), cmd.CommandPath(), hint)
}
