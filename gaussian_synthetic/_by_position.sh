# Sourced by figG7.sh and figG8.sh: other pictures of the runs of Fig. 3, position by position.

. common/environment.sh

# by_position FIGURE [flags of plots/gaussian_models.py], e.g. by_position G.7 --L 64; runs fig3.sh where it has not run
by_position() {
    local results name=fig${1/./} figure=$1
    shift
    case $PRESET in
        cpu) results=results ;;
        smoke | gpu | paper) results=results/$PRESET ;;
        *) echo "error: PRESET=$PRESET: choose smoke, cpu, gpu or paper" >&2 && exit 2 ;;
    esac
    if [ ! -f "$results/fig3/kl.csv" ]; then bash gaussian_synthetic/fig3.sh; fi
    "$python" plots/gaussian_models.py --figure "$figure" --results "$results/fig3" --out "$results/$name/$name" "$@"
}
