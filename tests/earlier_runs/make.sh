#!/usr/bin/env bash
# Make run folders of one commit: make.sh TREE FOLDER NAME..., with TREE a checkout of that commit.
set -eu
tree=$(realpath "$1")
mkdir -p "$2"
cd "$2"
export PYTHONPATH=$tree OMP_NUM_THREADS=1 OPENBLAS_NUM_THREADS=1

settings=(
  +experiment=two_task model.trunk.width=4 model.trunk.depth=1
  model.tasks.digit.head.depth=1 model.tasks.denoise.head.depth=1
  data.batch_size=500 data.validation_fraction=0.1 epochs=4
  optimizer=sgd optimizer.lr=0.5 scheduler=cosine scheduler.T_max=12 warmup_steps=2
  logger=none compare.steps=1
)
auto=(edition=auto budget=2MiB)

run() { python -m mtl_accum "${settings[@]}" "$@"; }

# Train with a checkpoint after every step, end it after some more than 5 of 12 steps, and keep the one after step 5.
stop() {
  python -m mtl_accum "${settings[@]}" checkpoint.every_steps=1 checkpoint.keep=12 "hydra.run.dir=$1" "${@:2}" &
  until [ -e "$1/checkpoints/step-0000000005/state.json" ]; do sleep 0.001; done
  kill -TERM $!
  wait $! || [ $? -eq 143 ]
  find "$1/checkpoints" -mindepth 1 -maxdepth 1 ! -name step-0000000005 -exec rm -r {} +
}

for name in "${@:3}"; do
  case $name in
    finished) run edition=split hydra.run.dir=finished ;;
    stopped) stop stopped edition=split ;;
    evaluated) run job=evaluate path=stopped hydra.run.dir=evaluated ;;
    planned) stop planned "${auto[@]}" ;;
    planned_finished) run "${auto[@]}" resume=planned hydra.run.dir=planned_finished ;;
    sweep) run train=false edition=summed,split hydra.sweep.dir=sweep --multirun ;;
  esac
done

# Remove what nothing reads, what is large, and what has the paths of a machine.
find . \( -name '*.log' -o -name .lock -o -name '*.html' -o -name hydra.yaml -o -name multirun.yaml \) -delete
find . -name pictures -prune -exec rm -r {} +
rm -rf finished/checkpoints
[ ! -e planned_finished ] || find planned_finished -type f ! -name model.safetensors -delete  # compared by its weights
find . -type d -empty -delete
