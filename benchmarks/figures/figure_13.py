"""Figure 13: coverage of the Goal GAN on point masses, with recall and with self-imitation.

    python benchmarks/figures/figure_13.py seeds=12 first_seed=200 out=runs/figure_13 \
        tasks=[point_free4,point_umaze] methods=[none,backtracking,self_imitation]

Unfinished runs are resumed. ``results.csv`` and ``figure.png`` go to ``out``; tables of paired
ratios over each of ``baselines`` and of coverage are printed.
"""

from runs.goal_runs import coverage_table, curves, experiment, table

if __name__ == "__main__":
    config, results = experiment(
        {
            "figure": "13",
            "out": "runs/figure_13",
            "tasks": ["point_free2", "point_free4", "point_free6", "point_umaze"],
            "methods": ["none", "backtracking", "self_imitation"],
            "baselines": ["none", "self_imitation"],  # of the paired ratios
        }
    )
    curves(config, results, "Coverage of a Goal GAN with and without recall.")
    for baseline in config.baselines:
        print(table(results, baseline, config.frames))
    print(coverage_table(results))
