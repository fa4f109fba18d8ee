"""How well scores tell correct programs from incorrect programs: best-of-N, pairs, RM-Bench, RewardBench.

What counts, for reward models and baselines alike:

  a tie         is drawn from: a figure is the mean over all ways to break it. RM-Bench alone, by its authors'
                definition, counts a tie as incorrect; "random" there is a scorer without ties.
  nan           is refused, by name. Infinite scores stand in order with finite ones, and equal ones tie.
  no program    (code null) is never picked and is in no pair; N candidates without a program count as incorrect.
  no syntax     A program that does not parse is scored like any other; with --require-syntax it is no program.
  one form      A program is read without outer white space, byte-order mark and carriage returns. A pair whose sides
                are then the same program is left out and counted.
  copies        Each counts as it was sampled in best-of-N; in pairs a program counts once a problem.
  labels        A candidate whose passed is null or absent is left out and counted, as is a group of no others. A
                program that is labelled both ways ties with itself.
  best-of-N     The chance that the best-scored of N candidates, drawn without replacement, is right: exact, over all
                draws, then the mean over problems. N goes to the size of the smallest problem.
  mixed         problems have a correct and an incorrect program: all that a scorer can win or lose.
  intervals     95%, by a bootstrap that draws problems (pairs: prompts; benchmarks: items) with replacement. Gains are
                paired: both scorers on the same draws. An interval from few problems says little, from one nothing.
  baselines     random: any program, equally likely; shortest and longest, by characters; parses: what parses as Python
                before what does not; defines: what defines the names that the problem's shown tests or signature call
                before what does not (`text.asked`); oracle: knows the labels.

The modules here know figures and files; `commands.evaluate` loads the models.
"""
